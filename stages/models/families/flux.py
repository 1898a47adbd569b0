"""FLUX.1 dev and schnell: T5's states with their pads, CLIP's pooled; latents packed two by two, guidance an input."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stages.core.spec import SamplerSpec
from stages.models.families.base import DIFFUSERS_TIME, Family, Words, listed

if TYPE_CHECKING:
    from stages.models.checkpoint import Checkpoint


def packed(z: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H/2 W/2, 4 C]."""
    batch, channels, height, width = z.shape
    parts = z.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return parts.reshape(batch, height // 2 * (width // 2), 4 * channels)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse, for latents of `height` and `width`."""
    parts = tokens.reshape(len(tokens), height // 2, width // 2, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return parts.reshape(len(tokens), -1, height, width)


class Flux(Family):
    """In bfloat16 its pipeline knows few times, and so do we."""

    pipeline = "FluxPipeline"
    text = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    text_length = 512
    guidance = "embedded"
    rounds_time = True
    targets = (
        *(f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")),
        *(f"attn.{name}" for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")),
        "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2",
    )  # fmt: skip

    def ask(self, body: Any, z: Tensor, time: Tensor, words: Words, at: "Checkpoint") -> Tensor:
        """A velocity."""
        height, width = z.shape[2:]
        rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
        places = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1).to(z)
        guidance = at.options.embedded_guidance
        answer = body(
            hidden_states=packed(z),
            timestep=time / DIFFUSERS_TIME,
            guidance=None if guidance is None else listed(guidance, z),
            pooled_projections=words["pooled"],
            encoder_hidden_states=words["hidden"],
            txt_ids=torch.zeros(words["hidden"].shape[1], 3).to(z),
            img_ids=places,
            return_dict=False,
        )[0]
        return unpacked(answer, height, width)

    def encode(self, pipe: Any, prompts: Sequence[str], at: "Checkpoint") -> Words:
        """hidden and pooled."""
        hidden, pooled, _ = pipe.encode_prompt(list(prompts), None, max_sequence_length=at.text_length)
        return {"hidden": hidden, "pooled": pooled}

    def lengths(self, pipe: Any, at: "Checkpoint") -> Mapping[str, int]:
        """CLIP's own, and T5's as stated."""
        assert at.text_length is not None
        return {"tokenizer": pipe.tokenizer_max_length, "tokenizer_2": at.text_length}

    def num_tokens(self, at: "Checkpoint") -> int:
        """A token for four places."""
        _, height, width = at.latent_shape
        return height * width // 4

    def call(self, at: "Checkpoint", spec: SamplerSpec) -> dict[str, Any]:
        """Guidance that takes two calls goes by another name."""
        words = super().call(at, spec) | {"guidance_scale": at.options.embedded_guidance or 1.0}
        if spec.guidance != 1:
            words |= {"true_cfg_scale": spec.guidance, "negative_prompt": at.options.negative_prompt or ""}
        return words
