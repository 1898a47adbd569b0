"""What multistep rules share: a history in the state, and the step with an extrapolated noise prediction.

In y = x / alpha and rho = sigma / alpha the ODE is dy/drho = e on every path. A step with e frozen is Euler's, which is
finite at alpha = 0 too; earlier predictions come as what they differ from the newest by, and there are none there.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from stages.samplers.field import Draw, Field, State
from stages.samplers.grid import combine


def recalled(state: State, name: str) -> list[Tensor]:
    """What `remembered` kept under `name`, the newest first."""
    found = []
    while (kept := state.memory.get(f"{name}{len(found)}")) is not None:
        found.append(kept)
    return found


def remembered(name: str, history: Sequence[Tensor], most: int) -> Mapping[str, Tensor]:
    """A state's memory with the first `most` of `history`, which has the newest first."""
    return {f"{name}{age}": kept for age, kept in enumerate(history[:most])}


def noise_step(field: Field, state: State, i: int, weights: Sequence[float], most: int) -> State:
    """From node i to node i + 1: Euler's step, and `weights` on what earlier e, newest first, are less the newest.

    Remembers the noise predictions of `most` nodes.
    """
    v = field.velocity(state.x, i)
    e, older = combine(field.grid.noise[i], state.x, v), recalled(state, "noise")
    x = combine(field.grid.transfer[i], state.x, v)
    for weight, old in zip(weights, older, strict=False):  # a node may be remembered before it has a weight
        x = combine((1.0, weight), x, old - e)
    return State(x, remembered("noise", [e, *older], most))


def noised(x: Tensor, std: float, draw: Draw, node: int) -> Tensor:
    """x with fresh noise of `std`, which is drawn for `node`; x itself where there is none."""
    return x if std == 0 else combine((1.0, std), x, draw(node, x))
