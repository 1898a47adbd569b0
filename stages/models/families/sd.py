"""Stable Diffusion 1.5 and 2.x, and XL: a UNet with a noise schedule, told of text by CLIP."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stages.models.families.base import Words
from stages.models.families.noise import NoiseSchedule

if TYPE_CHECKING:
    from stages.models.checkpoint import Checkpoint


class StableDiffusion(NoiseSchedule):
    """CLIP's last hidden states; noise is predicted, or v by 2.x at 768 pixels."""

    pipeline = "StableDiffusionPipeline"
    denoiser = "unet"
    last = "conv_out"
    text = ("tokenizer", "text_encoder")
    words_of_init = MappingProxyType({"requires_safety_checker": False})
    targets = (
        "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
        "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj",
    )  # fmt: skip

    def ask(self, body: Any, z: Tensor, time: Tensor, words: Words, at: "Checkpoint") -> Tensor:
        """What its schedule says it predicts."""
        return body(z, time, encoder_hidden_states=words["hidden"], return_dict=False)[0]

    def encode(self, pipe: Any, prompts: Sequence[str], at: "Checkpoint") -> Words:
        """hidden."""
        hidden, _ = pipe.encode_prompt(list(prompts), pipe._execution_device, 1, do_classifier_free_guidance=False)
        return {"hidden": hidden}

    def lengths(self, pipe: Any, at: "Checkpoint") -> Mapping[str, int]:
        """CLIP's own."""
        return {name: getattr(pipe, name).model_max_length for name in self.text if name.startswith("tokenizer")}

    def middle(self, body: Any) -> nn.Module:
        """The bottom of the U."""
        return body.mid_block

    def tokens(self, answer: Any, at: "Checkpoint") -> Tensor:
        """A token a place."""
        return answer.flatten(2).transpose(1, 2)

    def feature_dim(self, at: "Checkpoint") -> int:
        """Channels at the bottom."""
        return at.config(self.denoiser)["block_out_channels"][-1]


class StableDiffusionXL(StableDiffusion):
    """Two CLIPs, joined on channels before their last layer, and the size of the image, not cropped."""

    pipeline = "StableDiffusionXLPipeline"
    text = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    words_of_init = MappingProxyType({})

    def ask(self, body: Any, z: Tensor, time: Tensor, words: Words, at: "Checkpoint") -> Tensor:
        """Noise, mostly."""
        size = (at.options.height, at.options.width)
        sizes = torch.tensor([[*size, 0, 0, *size]], dtype=z.dtype, device=z.device).expand(len(z), -1)
        added = {"text_embeds": words["pooled"], "time_ids": sizes}
        return body(
            z, time, encoder_hidden_states=words["hidden"], added_cond_kwargs=added, return_dict=False
        )[0]  # fmt: skip

    def encode(self, pipe: Any, prompts: Sequence[str], at: "Checkpoint") -> Words:
        """hidden and pooled."""
        hidden, _, pooled, _ = pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False)
        return {"hidden": hidden, "pooled": pooled}

    def null(self, pipe: Any, at: "Checkpoint") -> Words:
        """Zeros, where the folder says so and no negative prompt is stated."""
        found = super().null(pipe, at)
        zeros = at.options.negative_prompt is None and at.index.get("force_zeros_for_empty_prompt", True)
        return {name: torch.zeros_like(rows) for name, rows in found.items()} if zeros else found
