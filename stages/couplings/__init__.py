"""Couplings: which noise goes with which sample. Prompts go with their samples."""

from collections.abc import Callable
from types import MappingProxyType

from torch import Generator, Tensor

from stages.core.messages import choose
from stages.couplings.independent import independent
from stages.couplings.minibatch_ot import minibatch_ot
from stages.couplings.semidiscrete_ot import semidiscrete_ot
from stages.couplings.teacher_ode import teacher_ode

Coupling = Callable[[Tensor, Tensor, int, Generator], Tensor]
"""(noise [N, ...], x0 [N, ...], batch, rng) -> order, int64 [N]: noise i goes with x0[order[i]]."""

COUPLINGS: MappingProxyType[str, Coupling] = MappingProxyType(
    {
        "teacher_ode": teacher_ode,
        "independent": independent,
        "minibatch_ot": minibatch_ot,
        "semidiscrete_ot": semidiscrete_ot,
    }
)

MATCHED = ("minibatch_ot", "semidiscrete_ot")
"""Those that look at `batch` samples together."""


def couple(
    noise: Tensor, x0: Tensor, prompt_index: Tensor, *, name: str, batch: int, rng: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs (noise, x0, prompt_index) [N, ...] of coupling `name`; noise keeps its order.

    `rng` lives on the CPU. `batch` is the number of samples that optimal transport looks at together.
    ValueError for an unknown name, unequal lengths, or a batch below 1.
    """
    coupling = choose(COUPLINGS, name, "coupling", "couple")
    sizes = len(noise), len(x0), len(prompt_index)
    if len(set(sizes)) != 1:
        raise ValueError(f"couple: noise, x0, prompt_index hold {sizes} rows; pairs need as many of each")
    order = coupling(noise, x0, batch, rng).to(x0.device)
    return noise, x0[order], prompt_index[order]
