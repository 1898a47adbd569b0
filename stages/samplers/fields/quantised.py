"""A network of few bits: weights, and the activations before each layer, rounded as such a network would have them.

Source: post-training quantisation with the calibration of PTQ4DM (Shang et al. 2022, arXiv:2211.15736); `scales` are of
a fit of that name. Without them each token's is its own, at each call, and nothing needs to be calibrated.
Differs: roundings are to the nearest, none is learnt. Numbers are rounded and computed with as before, so that it tells
what is lost and not what is saved; torchao's `quantize_` saves it, where it is installed. The copy ends with the run.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field as Knob
from torch import Tensor

from stages.core.config import config
from stages.core.precision import Wide
from stages.core.ranges import Positive
from stages.models.quantised import quantised
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

    fixed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.scales and self.activation_bits is None:
            raise ValueError("scales are of activations, and activation_bits is null; take them away, or name the bits")

    def over(self, network: Prompted, grid: Grid, x: Tensor) -> Field:
        """See `Answers`. ValueError where the network has no such layers, or as many as there are no scales."""
        net, is_wide = (network.net.velocity, True) if isinstance(network.net, Wide) else (network.net, False)
        made = quantised(net, self.weight_bits, self.activation_bits, self.scales)
        rounded = Prompted(Wide(made) if is_wide else made, network.cond, network.guidance, network.negative)
        return Field(rounded, grid, x)
