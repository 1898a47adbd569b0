"""A denoiser of two networks, one for much noise and one for little, which share nothing."""

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn

from stages.core.rows import routed


class Experts(nn.Module):
    """The first is asked at t >= boundary, the second below it. Its children's names are the checkpoint's."""

    def __init__(self, networks: Mapping[str, nn.Module], boundary: float) -> None:
        super().__init__()
        self.boundary = boundary
        for name, network in networks.items():
            self.add_module(name, network)

    def enable_gradient_checkpointing(self) -> None:
        """In both."""
        for part in self.children():
            part.enable_gradient_checkpointing()  # type: ignore[operator]


def parts(body: nn.Module, name: str) -> dict[str, nn.Module]:
    """The networks of `body`, by their names in the checkpoint; one network alone is called `name`."""
    return dict(body.named_children()) if isinstance(body, Experts) else {name: body}


def by_expert(body: nn.Module, t: Tensor, call: Callable[[nn.Module, Tensor | slice], Tensor]) -> Tensor:
    """Answers [B, ...] of call(network, rows), each row of t [B] by the network that is asked at its time."""
    if not isinstance(body, Experts):
        return call(body, slice(None))
    first, second = body.children()
    above = t >= body.boundary
    return routed([(partial(call, first), above), (partial(call, second), ~above)])
