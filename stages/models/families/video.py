"""What families of videos share: latents [C, T, H, W], fewer frames than the video has."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from stages.core.spec import SamplerSpec
from stages.models.families.base import Family, Words

if TYPE_CHECKING:
    from stages.models.checkpoint import Checkpoint


class Video(Family):
    """The first frame is a latent one by itself; what follows is `factors()[0]` frames to one."""

    channels: ClassVar[str] = "latent_channels"
    """Word of the VAE's configuration for C."""

    def factors(self, vae: Mapping[str, Any]) -> tuple[int, int]:
        """Frames, and pixels along a side, to a latent one."""
        return vae["temporal_compression_ratio"], 2 ** (len(vae["block_out_channels"]) - 1)

    def shape(self, at: "Checkpoint") -> tuple[int, ...]:
        """[C, T, H, W]."""
        vae, options = at.config("vae"), at.options
        in_time, in_space = self.factors(vae)
        assert options.frames is not None
        frames = (options.frames - 1) // in_time + 1
        return vae[self.channels], frames, options.height // in_space, options.width // in_space

    def check(self, at: "Checkpoint") -> None:
        """Frames that come out even."""
        frames, (in_time, _) = at.options.frames, self.factors(at.config("vae"))
        if frames is None:
            raise ValueError(f"frames: {self.pipeline} makes videos; say how many frames they have")
        if (frames - 1) % in_time:
            fit = (frames - 1) // in_time * in_time + 1
            raise ValueError(
                f"frames={frames}: the VAE takes one and a multiple of {in_time} more, such as {fit} or {fit + in_time}"
            )

    def encode(self, pipe: Any, prompts: Sequence[str], at: "Checkpoint") -> Words:
        """hidden, of the one encoder that there is, pads and all."""
        hidden, _ = pipe.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, max_sequence_length=at.text_length
        )
        return {"hidden": hidden}

    def lengths(self, pipe: Any, at: "Checkpoint") -> Mapping[str, int]:
        """As stated."""
        assert at.text_length is not None
        return {"tokenizer": at.text_length}

    def call(self, at: "Checkpoint", spec: SamplerSpec) -> dict[str, Any]:
        """Their number is one more word."""
        return super().call(at, spec) | {"num_frames": at.options.frames}


def by_channel(vae: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Means and inverse deviations [C, 1, 1, 1], where the VAE's configuration lists them."""
    mean, deviation = (torch.tensor(vae[name])[:, None, None, None] for name in ("latents_mean", "latents_std"))
    return mean, 1 / deviation
