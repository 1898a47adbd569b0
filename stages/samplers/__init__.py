"""Samplers: step rules along any path, from noise to data, for whoever samples: stages, methods, people.

A rule is written once on (D, e), finite where y = x / alpha and rho = sigma / alpha are not (pure noise on
the flow path); a path only changes the numbers in its grid. Times are compared by their index. README.md
says why diffusers' flow schedulers are not called here; tests prove that ours take the same steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Any

import pydantic
import torch
from torch import Generator, Tensor

from stages.core.config import check, members
from stages.core.path import LINEAR, Path
from stages.samplers.anchored import Anchored
from stages.samplers.boundary_condition import BoundaryCondition
from stages.samplers.churn import Churn
from stages.samplers.cps import CPS
from stages.samplers.dance_sde import DanceSDE
from stages.samplers.ddgan import DDGAN
from stages.samplers.ddim import DDIM
from stages.samplers.distillation_plus import DistillationPlus
from stages.samplers.field import Draw, Field, Rule, State, Steering, VelocityAt, drawing
from stages.samplers.first_hitting import FirstHitting
from stages.samplers.flow_map import FlowMap
from stages.samplers.flow_sde import FlowSDE
from stages.samplers.flow_turbo import FlowTurbo
from stages.samplers.gotta_go_fast import GottaGoFast
from stages.samplers.grid import build
from stages.samplers.heun import EdmHeun
from stages.samplers.langevin import Langevin
from stages.samplers.learned_variance import LearnedVariance
from stages.samplers.masked import Masked
from stages.samplers.oftsr import OFTSR
from stages.samplers.paradigms import Paradigms
from stages.samplers.psld import PSLD
from stages.samplers.renoise import Renoise
from stages.samplers.restart import Restart
from stages.samplers.solvers import Solver
from stages.samplers.student_t import StudentT
from stages.samplers.teleport import Teleport
from stages.samplers.uniform_state import UniformState

_Drawing = (
    Renoise | FlowSDE | DanceSDE | CPS | Anchored | DDIM | Churn | Restart | Langevin | PSLD | GottaGoFast | Paradigms
)
_OfTokens = Masked | FirstHitting | UniformState
_Beside = DistillationPlus | FlowTurbo | LearnedVariance
_Begun = Teleport | StudentT | BoundaryCondition
FromNoise = Solver | _Begun | _Drawing | DDGAN | FlowMap | OFTSR | _Beside | _OfTokens
"""Those that can start where alpha = 0, as every sampler of a model does."""

AnyRule = Annotated[FromNoise | EdmHeun, pydantic.Field(discriminator="name")]
RULES = MappingProxyType(members(AnyRule))
"""By name."""


def rule_of(choice: Mapping[str, Any]) -> Rule:
    """The rule that a name and its knobs choose; ValueError where there is no such rule or knob."""
    return check(AnyRule, choice, "rule")  # type: ignore[arg-type]


_ROWS = "rows"
"""Among what a state remembers while it is steered: which samples there were, in their new places."""


@lru_cache
def named(name: str) -> Rule:
    """The rule called `name`, which has no knobs."""
    return rule_of({"name": name})


@dataclass(frozen=True)
class Solution:
    """What a run of a sampler made."""

    x0: Tensor
    """[B, ...], the state at the last time."""
    states: Tensor
    """[K, B, ...], the states at the nodes asked for, in that order."""
    nfe: float
    """Network calls a sample; a guided call counts once."""
    cost: float
    """Passes through the network a sample: a guided call is two, and part of a network its share."""
    rounds: int
    """Calls of the network one after another, each for all samples, and all nodes, that are ready for it."""


def sample(  # noqa: PLR0913 - what a run is; five are always given
    velocity: VelocityAt,
    noise: Tensor,
    times: Tensor | Sequence[float],
    rule: str | Rule,
    *,
    path: Path = LINEAR,
    keep: Sequence[int] = (),
    rng: Generator | Draw | None = None,
    steer: Steering | None = None,
) -> Solution:
    """Follow `velocity` from `noise`, the state [B, ...] at times[0], to times[-1].

    `times` [n + 1] fall; `keep` names states by their index in `times` (0 is the noise, n is x0). `rng` is
    for rules that draw: a generator, or a function (node, x) -> noise, which lets noise follow a sample's
    global index. `steer` sees, and may change, the state at every inner node. The states, and the time labels [B]
    that the network sees, have the noise's type and device. Gradients are the caller's choice. ValueError for an
    unknown rule, times that do not fall, or an index outside them.
    """
    field = Field(velocity, build(path, times), noise)
    return drive(field, noise, rule, keep=keep, rng=rng, steer=steer)


def drive(
    field: Field,
    noise: Tensor,
    rule: str | Rule,
    *,
    keep: Sequence[int] = (),
    rng: Generator | Draw | None = None,
    steer: Steering | None = None,
) -> Solution:
    """`sample` for a field of the caller's own, over its grid."""
    rule, num_steps = named(rule) if isinstance(rule, str) else rule, field.grid.num_steps
    wrong = [index for index in keep if not 0 <= index <= num_steps]
    if wrong:
        raise ValueError(f"keep: no state has index {wrong[0]}; the states are 0 to {num_steps}")
    state, draw = State(noise), drawing(rng, rule)
    kept = {0: noise} if 0 in keep else {}
    for node in range(num_steps):
        state = rule.step(field, state, node, draw)
        if steer is not None and node + 1 < num_steps:
            state = _steered(steer, field, state, node + 1)
        if node + 1 in keep:
            kept[node + 1] = state.x
    states = torch.stack([kept[index] for index in keep]) if keep else noise.new_empty(0, *noise.shape)
    return Solution(x0=state.x, states=states, nfe=field.nfe, cost=field.cost, rounds=field.counts.rounds)


def _steered(steer: Steering, field: Field, state: State, node: int) -> State:
    """What a field remembers of a sample goes where the steering has the sample go."""
    rows = torch.arange(len(state.x), device=state.x.device)
    state = steer(field, State(state.x, {**state.memory, _ROWS: rows}), node)
    if _ROWS in state.memory:
        field.take(state.memory[_ROWS])
    else:  # other samples than there were
        field.memory = {}
    return State(state.x, {name: kept for name, kept in state.memory.items() if name != _ROWS})
