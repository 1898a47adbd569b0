"""A network of few bits: weights, and the activations before each layer, rounded as such a network would have them.

Source: post-training quantisation with the calibration of PTQ4DM (Shang et al. 2022, arXiv:2211.15736); `scales` are of
a fit of that name. Without them each token's is its own, at each call, and nothing needs to be calibrated.
Differs: roundings are to the nearest, none is learnt. Numbers are `rounded` and computed with as before, so that it
tells what is lost and not what is saved. `torchao` holds the weights of linear layers as int8 (its `quantize_`), and
computes with int8 where activations have 8 bits too; scales are its own. The copy ends with the run.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.core.precision import Wide
from stages.core.ranges import Positive
from stages.models.quantised import has_torchao, quantised, stored
from stages.samplers.field import Field
from stages.samplers.fields.base import Knobs
from stages.samplers.grid import Grid
from stages.samplers.prompted import Prompted

Bits = Annotated[int, Knob(ge=2, le=16)] | None


@config
class Quantised(Knobs):
    """Of how many bits."""

    name: Literal["quantised"]
    weight_bits: Bits
    """null leaves weights as they are,"""
    activation_bits: Bits
    """and activations."""
    scales: Annotated[tuple[Positive, ...], Knob(max_length=10_000)]
    """Of activations, one a layer that is rounded; none at all has each token have its own."""

    backend: Literal["rounded", "torchao"] = "rounded"
    """What does it: numbers that are rounded, of any bits, or stored ones, of 8."""

    fixed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.scales and self.activation_bits is None:
            raise ValueError("scales are of activations, and activation_bits is null; take them away, or name the bits")
        if self.backend == "torchao":
            self._is_stored()

    def _is_stored(self) -> None:
        """ValueError where torchao does not."""
        if not has_torchao():
            raise ValueError("backend=torchao: it is not installed; pip install 'fewstep[torchao]'")
        if self.weight_bits != 8 or self.activation_bits not in (8, None) or self.scales:
            raise ValueError(
                "backend=torchao: weights have 8 bits, activations 8 or null, and scales of their own; take others by "
                "backend=rounded"
            )

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`. ValueError where the network has no such layers, or as many as there are no scales."""
        net, is_wide = (network.net.velocity, True) if isinstance(network.net, Wide) else (network.net, False)
        if self.backend == "torchao":
            made = stored(net, activations=self.activation_bits is not None)
        else:
            made = quantised(net, self.weight_bits, self.activation_bits, self.scales)
        rounded = Prompted(Wide(made) if is_wide else made, network.cond, network.guidance, network.negative)
        return Field(rounded, grid, x)
