"""What a training will take, before anything is made: memory by what holds it, and calls of networks.

Memory is counted on networks without weights, calls on networks that compute nothing, by the one training loop; so
neither knows a method. Left out: what frozen networks hold for a moment, a VAE, rewards, and the libraries' own.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor, nn

from stages.core.needs import Memory, Needs
from stages.core.prompts import Prompt
from stages.core.types import Batch, Cond
from stages.models.sketch import META, Sketch
from stages.models.space import Points
from stages.training import shards
from stages.training.budget import Budget
from stages.training.cost import Cost
from stages.training.loop import Trainer
from stages.training.method import Method, Trained, carries, prompts_of
from stages.training.roles import Start, Tuning, Weights

_ADAM = 2
"""Numbers, as large as the weights they are of, that AdamW remembers."""
_SHOWN = 30
"""Iterations, or rounds of phases that do not come in each, that are run of those that repeat each other."""
_SIZE = (1, 4, 4)
"""Of the samples that calls are counted with."""


def needs(  # noqa: PLR0913 - what a training is
    method: Method,
    cfg: Any,
    budget: Budget,
    init: Sketch,
    teacher: Sketch,
    tuning: Tuning,
    *,
    rows: int,
    group_size: int = 1,
    num_students: int = 1,
) -> Needs:
    """Of a training on `rows` samples an iteration, which come in groups of `group_size` where it compares them."""
    totals = calls(method, cfg, budget, rows=rows, group_size=group_size).totals
    return Needs(
        memory=memory(method, cfg, init, teacher, tuning, rows=rows // budget.slices, num_students=num_students),
        forward=totals["network_evaluations"],
        backward=totals["backward_passes"],
        scored=totals["samples_scored"],
    )


def memory(  # noqa: PLR0913 - what a training is
    method: Method,
    cfg: Any,
    init: Sketch,
    teacher: Sketch,
    tuning: Tuning,
    *,
    rows: int,
    num_students: int = 1,
) -> Memory:
    """Of a training whose slices have `rows` samples."""
    built = init.build()
    source = built if teacher is init else teacher.build()
    start = Start(init=built, teacher=source, space=Points(init.shape), num_students=num_students)
    roles = method.roles(cfg)
    made = Weights(roles, start, seed=0, device=str(META), tuning=tuning)
    held = {id(t): t for net in [*made.nets.values(), made.average] for t in [*net.parameters(), *net.buffers()]}
    changing = {id(tensor) for tensor in made.changing}
    learnt = [p for name, role in roles.items() if isinstance(role, Trained) for p in made.parameters(name)]
    size = sum(p.nbytes for p in learnt)
    return Memory(
        trained=sum(p.numel() for p in learnt),
        frozen=sum(t.numel() for key, t in held.items() if key not in changing),
        weights=sum(t.nbytes for t in held.values()),
        gradients=size,
        optimiser=_ADAM * size,
        activations=_activations(init, made, rows),
    )


def _activations(sketch: Sketch, made: Weights, rows: int) -> int:
    net = made.nets["student"]
    is_recomputed = any(getattr(module, "gradient_checkpointing", False) for module in net.modules())
    with made.learning(("student",)), _all_kept(net):
        weights = {t.untyped_storage()._cdata for t in [*net.parameters(), *net.buffers()]}
        saved: dict[int, int] = {}
        blocks: list[int] = []

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in weights:
                saved[storage._cdata] = storage.nbytes()
            kept.append(tensor)  # alive, so that no other gets its place
            return tensor

        kept: list[Tensor] = []
        hooks = [block.register_forward_pre_hook(_noting(blocks), with_kwargs=True) for block in shards.blocks(net)]
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            sketch.call(net, rows)
        for hook in hooks:
            hook.remove()
    whole = sum(saved.values())
    if not is_recomputed or not blocks:
        return whole
    return sum(blocks) + whole // len(blocks)  # what goes into each block, and one block at a time


def _noting(into: list[int]) -> Callable[..., None]:
    def note(_module: nn.Module, inputs: Sequence[object], words: dict[str, object]) -> None:
        given = [each for each in [*inputs, *words.values()] if isinstance(each, Tensor)]
        into.append(max((each.nbytes for each in given), default=0))

    return note


@contextmanager
def _all_kept(net: nn.Module) -> Iterator[None]:
    """Without recomputation, under which nothing is seen to be kept."""
    switched = [module for module in net.modules() if hasattr(module, "gradient_checkpointing")]
    told = [(module, module.gradient_checkpointing) for module in switched]
    for module, _ in told:
        module.gradient_checkpointing = False  # type: ignore[assignment]
    yield
    for module, was in told:
        module.gradient_checkpointing = was


class _Nothing(nn.Module):
    """Answers what it is given."""

    feature_dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self._num_fields = self.rows = 1

    def add_second_time(self, _seed: int) -> None:
        """It is never looked at."""

    def add_latent_variable(self, _size: int, _seed: int) -> None:
        """Nor is that."""

    def add_negative_reader(self, _seed: int) -> None:
        """Nor that."""

    def add_new_companion(self, _size: Any, _shape: tuple[int, ...], _seed: int) -> None:
        """Nor that."""

    def beside(self, x: Tensor, _t: Tensor, _cond: Cond, _told: Tensor) -> Tensor:
        return self.weight * x

    def add_policy(self, choice: Mapping[str, Any], _seed: int) -> None:
        """Its fields are all the same."""
        from stages.models.policy import made

        policy = made(choice)
        self._num_fields, self.rows = policy.channels(_SIZE[0]), policy.rows

    def forward(self, x: Tensor, _t: Tensor, _cond: Cond, **_more: Any) -> Tensor:
        return self.weight * x

    def fields(self, x: Tensor, _t: Tensor, _cond: Cond) -> Tensor:
        return (self.weight * x).repeat_interleave(self._num_fields, dim=1)

    def features(self, x: Tensor, _t: Tensor, _cond: Cond, **_more: Any) -> Tensor:
        return self.weight * x.flatten(1)[:, None, : self.feature_dim]


def calls(method: Method, cfg: Any, budget: Budget, *, rows: int, group_size: int = 1) -> Cost:
    """Of the whole budget: iterations repeat each other, and a few of each kind are run.

    Exact, but of a long training that draws how many steps it simulates, whose first draws stand for all.
    `rows` are the samples of an iteration; groups, of which a policy compares the samples, have `group_size`.
    """
    net = _Nothing()
    reward = lambda images, _prompts: torch.linspace(0, 1, len(images)) + 0 * images.flatten(1).sum(1)  # noqa: E731
    rows_named = dict.fromkeys(prompts_of(method, cfg), 1)
    start = Start(init=net, teacher=net, space=Points(_SIZE), reward=reward, prompts=[Prompt("")] * 2, rows=rows_named)
    trainer = Trainer(method, cfg, budget, start, seed=0, device="cpu")
    phases = method.phases(cfg)
    period = math.lcm(*(phase.every for phase in phases))
    turns = {math.ceil(share * budget.iterations) for phase in phases for share in (phase.start, phase.stop)}
    first = {1} if carries(method) else set()  # which may have to begin what is carried
    edges = sorted({0, budget.iterations, *turns, *first})
    batch, total = _batch(rows, group_size), Cost({}, {}, 0)
    for begin, end in pairwise(edges):
        whole, rest = divmod(end - begin, period)
        shown = min(whole, _SHOWN)
        for first, count, times in (
            (begin, shown * period, Fraction(whole, shown or 1)),
            (end - rest, rest, Fraction(1)),
        ):
            trainer.iteration, trainer.counted = first, torch.zeros_like(trainer.counted)
            for _ in range(count):
                trainer.step(batch)
            total = total + _times(trainer.cost, times)
    return total


def _times(cost: Cost, times: Fraction) -> Cost:
    def scaled(networks: Any) -> dict[str, dict[str, int]]:
        return {role: {kind: round(times * n) for kind, n in kinds.items()} for role, kinds in networks.items()}

    return Cost(scaled(cost.networks), scaled(cost.heads), round(times * cost.scored))


def _batch(rows: int, group_size: int) -> Batch:
    x0, noise = (torch.randn((rows, *_SIZE), generator=Generator().manual_seed(seed)) for seed in (0, 1))
    group = torch.arange(rows // group_size).repeat_interleave(group_size)
    states, times = torch.stack([noise, x0], dim=1), torch.tensor([[1.0, 0.0]]).repeat(rows, 1)
    return {
        "states": states,
        "times": times,
        "x0": x0,
        "level": torch.zeros(rows),
        "noise": noise,
        "cond": torch.ones((rows, 1), dtype=torch.int64),
        "group": group,
    }
