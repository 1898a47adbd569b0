"""LTX-Video: a flow for videos in strongly compressed latents, a token a place, told of text by T5."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stages.models.families.base import Words
from stages.models.families.video import Video

if TYPE_CHECKING:
    from stages.models.checkpoint import Checkpoint

FRAME_RATE = 25
"""Frames a second, which the pipeline's call has unless it is told another."""


class LTX(Video):
    """Places are told to the network in pixels and seconds."""

    pipeline = "LTXPipeline"
    text = ("tokenizer", "text_encoder")
    masked = True
    text_length = 128
    multiple = 32
    takes_times = False
    targets = (
        *(f"attn{number}.{name}" for number in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")),
        "ff.net.0.proj", "ff.net.2",
    )  # fmt: skip

    def factors(self, vae: Mapping[str, Any]) -> tuple[int, int]:
        """Stated, or by patches and the blocks that halve."""
        halved = 2 ** sum(vae["spatio_temporal_scaling"])
        in_time, in_space = (vae.get(f"{name}_compression_ratio") for name in ("temporal", "spatial"))
        return in_time or vae["patch_size_t"] * halved, in_space or vae["patch_size"] * halved

    def scale(self, at: "Checkpoint") -> tuple[float, float]:
        """The VAE's own weights say it, see `encoded`."""
        return 0.0, 1.0

    def encoded(self, vae: Any, pixels: Tensor, at: "Checkpoint") -> Tensor:
        """Normalised."""
        mean, scale = _statistics(vae)
        return (super().encoded(vae, pixels, at) - mean) * scale

    def decoded(self, vae: Any, latents: Tensor, at: "Checkpoint") -> Tensor:
        """The inverse first. A decoder that takes a time is told that nothing is noise, as the pipeline does."""
        mean, scale = _statistics(vae)
        told = torch.zeros(len(latents)).to(latents) if vae.config.timestep_conditioning else None
        return vae.decode(latents / scale + mean, told, return_dict=False)[0]

    def ask(self, body: Any, z: Tensor, time: Tensor, words: Words, at: "Checkpoint") -> Tensor:
        """A velocity."""
        frames, height, width = z.shape[2:]
        in_time, in_space = self.factors(at.config("vae"))
        answer = body(
            hidden_states=z.flatten(2).transpose(1, 2),
            encoder_hidden_states=words["hidden"],
            timestep=time,
            encoder_attention_mask=words["mask"],
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=(in_time / FRAME_RATE, in_space, in_space),
            return_dict=False,
        )[0]
        return answer.transpose(1, 2).unflatten(2, (frames, height, width))

    def encode(self, pipe: Any, prompts: Sequence[str], at: "Checkpoint") -> Words:
        """hidden and mask."""
        hidden, mask, _, _ = pipe.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, max_sequence_length=at.text_length
        )
        return {"hidden": hidden, "mask": mask}

    def lengths(self, pipe: Any, at: "Checkpoint") -> Mapping[str, int]:
        """As stated."""
        assert at.text_length is not None
        return {"tokenizer": at.text_length}

    def num_tokens(self, at: "Checkpoint") -> int:
        """A token a place."""
        return math.prod(at.latent_shape[1:])


def _statistics(vae: Any) -> tuple[Tensor, Tensor]:
    """Means and inverse deviations [1, C, 1, 1, 1]."""
    mean, deviation = (part.view(1, -1, 1, 1, 1) for part in (vae.latents_mean, vae.latents_std))
    return mean, vae.config.scaling_factor / deviation
