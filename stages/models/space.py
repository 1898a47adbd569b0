"""Where a model's samples live, and how they become images."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from stages.core.noising import Noising
from stages.core.precision import wide_type


@dataclass(frozen=True)
class Points:
    """Samples that are no pictures: images and samples are the same."""

    noising: ClassVar[Noising | None] = None
    """What noise does to them, where they are tokens."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    """Of noise; narrower types become float32."""

    def noise(self, n: int, rng: Generator) -> Tensor:
        """Standard normal [n, *shape] on the generator's device."""
        return torch.randn((n, *self.shape), generator=rng, dtype=wide_type(self.dtype), device=rng.device)

    def encode(self, images: Tensor) -> Tensor:
        """The images."""
        return images

    def decode(self, samples: Tensor) -> Tensor:
        """The samples."""
        return samples


class Pixels(Points):
    """Samples in [-1, 1] for images in [0, 1]."""

    def encode(self, images: Tensor) -> Tensor:
        """2 images - 1."""
        return 2 * images - 1

    def decode(self, samples: Tensor) -> Tensor:
        """(samples + 1) / 2, cut to [0, 1]; what is not a number stays so."""
        return ((samples + 1) / 2).clamp(0, 1)


class Tokens(Points):
    """One of K greys for each pixel of a grey picture: samples [K, H, W] have a 1 for that and zeros else, see
    `stages/models/tokens.py`.
    """

    noising: ClassVar[Noising | None] = "masked"

    def encode(self, images: Tensor) -> Tensor:
        """Of the nearest greys; images are [B, 1, H, W]."""
        greys = ((self.shape[0] - 1) * images[:, 0]).round().long()
        return one_hot(greys, self.shape[0]).movedim(-1, 1).to(wide_type(self.dtype))

    def decode(self, samples: Tensor) -> Tensor:
        """[B, 1, H, W], of the greys that weigh most; what is not a number stays so."""
        greys = samples.argmax(dim=1, keepdim=True) / (self.shape[0] - 1)
        return greys.masked_fill(samples.isnan().any(dim=1, keepdim=True), torch.nan)


class UniformTokens(Tokens):
    """The same, where noise puts any grey in the place of another."""

    noising: ClassVar[Noising | None] = "uniform"


SPACES: Mapping[str, type[Points]] = MappingProxyType(
    {"pixels": Pixels, "points": Points, "latents": Points, "tokens": Tokens, "uniform_tokens": UniformTokens}
)
"""By the name that data sets and models carry."""
