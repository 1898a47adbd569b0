"""What has to be said to a family's stock pipeline so that it can be held against ours."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor


def _same(x: Tensor, _rig: Any) -> Tensor:
    return x


def sigmas(scheduler: Any, _rig: Any) -> list[float]:
    """Times of a flow's scheduler, after it has sampled."""
    return [float(sigma) for sigma in scheduler.sigmas]


class Parity:
    """Of a flow that takes latents as they are."""

    def __init__(
        self,
        *,
        scheduler: Callable[[Any], Any] = lambda own: own,
        times: Callable[[Any, Any], list[float]] = sigmas,
        packed: Callable[[Tensor, Any], Tensor] = _same,
        unpacked: Callable[[Tensor, Any], Tensor] = _same,
        end: Callable[[Tensor, Any], Tensor] = _same,
        scale: str = "guidance_scale",
        given: Callable[[float], float] = lambda guidance: guidance,
        call: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """`given` is what the pipeline takes for our guidance, under the name `scale`; `end` our last state as its."""
        self.scheduler, self.times, self.packed, self.unpacked = scheduler, times, packed, unpacked
        self.end, self.scale, self.given, self.call = end, scale, given, call


PARITY: Mapping[str, Parity] = MappingProxyType({"sd3": Parity()})
"""By the names of `tiny.BUILDERS`."""
