"""Samples that are a VAE's latents."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from stages.models.checkpoint import Checkpoint
from stages.models.space import Points


@dataclass(frozen=True)
class Latents(Points):
    """Normalised latents [C, H, W] or [C, T, H, W] for images [3, H, W] or videos [3, T, H, W] in [0, 1]."""

    at: Checkpoint | None = None
    _loaded: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The VAE, from the first time that it is needed on."""

    @classmethod
    def of(cls, at: Checkpoint) -> "Latents":
        """Those that the checkpoint's denoiser sees."""
        return cls(at.latent_shape, at=at)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """The mode of the VAE's posterior."""
        at = self._at
        vae, (shift, scale) = self._vae(images), at.family.scale(at)
        parts = images.split(at.options.slice_size)
        encoded = [at.family.encoded(vae, 2 * part.float() - 1, at) for part in parts]
        return torch.cat([(z - _on(shift, z)) * _on(scale, z) for z in encoded])

    def decode(self, samples: Tensor) -> Tensor:
        """Cut to [0, 1]; what is not a number stays so. With a gradient by the samples, where they have one."""
        at = self._at
        vae, (shift, scale) = self._vae(samples), at.family.scale(at)
        parts = (
            part.float() / _on(scale, samples) + _on(shift, samples) for part in samples.split(at.options.slice_size)
        )
        images = [at.family.decoded(vae, part, at) for part in parts]
        return ((torch.cat(images) + 1) / 2).clamp(0, 1)

    @property
    def _at(self) -> Checkpoint:
        assert self.at is not None
        return self.at

    def _vae(self, like: Tensor) -> Any:
        if "vae" not in self._loaded:
            from stages.models.pretrained import component

            self._loaded["vae"] = component(self._at, "vae", torch.float32)
        return self._loaded["vae"].to(like.device)


def samples(encode: Path, images: Tensor, space: Points, *, latent: bool = False) -> Tensor:
    """Samples of the space for `images`: those that `encode` left where it left some, else they are made here.

    `latent` says that they are such samples already. ValueError where they are no samples of the space.
    """
    if latent:
        return checked(images, space)
    files = sorted(encode.glob("latents-*.safetensors"))
    return torch.cat([load_file(file)["latents"] for file in files]) if files else checked(space.encode(images), space)


def checked(samples: Tensor, space: Points) -> Tensor:
    """Samples [n, ...] themselves; ValueError unless they have the shape that the model's have."""
    if samples.shape[1:] != space.shape:
        raise ValueError(
            f"the dataset's images are samples of {list(samples.shape[1:])}, the model's are {list(space.shape)}; make "
            "height and width of both the same, or bring latents of this model"
        )
    return samples


def _on(value: float | Tensor, like: Tensor) -> float | Tensor:
    return value.to(like.device) if isinstance(value, Tensor) else value
