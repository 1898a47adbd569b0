"""Qwen-Image: a flow packed like FLUX.1's, told of text by Qwen2.5-VL; its guidance keeps the size of each token."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stages.core.spec import SamplerSpec
from stages.models.families.base import DIFFUSERS_TIME, Family, Words
from stages.models.families.flux import packed, unpacked

if TYPE_CHECKING:
    from stages.models.checkpoint import Checkpoint


class QwenImage(Family):
    """Text stands in a template, which is cut off again; a mask tells how much of it there is."""

    pipeline = "QwenImagePipeline"
    text = ("tokenizer", "text_encoder")
    masked = True
    even = False
    text_length = 512
    rounds_time = True
    targets = (
        *(f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")),
        *(f"attn.{name}" for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")),
        "img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2",
    )  # fmt: skip

    def shape(self, at: "Checkpoint") -> tuple[int, ...]:
        """That of one frame of the VAE's, which is a video's."""
        vae = at.config("vae")
        factor = 2 ** len(vae["temperal_downsample"])
        return vae["z_dim"], at.options.height // factor, at.options.width // factor

    def scale(self, at: "Checkpoint") -> tuple[Tensor, Tensor]:
        """Means and inverse deviations, a channel each."""
        vae = at.config("vae")
        mean, deviation = (torch.tensor(vae[name])[:, None, None] for name in ("latents_mean", "latents_std"))
        return mean, 1 / deviation

    def encoded(self, vae: Any, pixels: Tensor, at: "Checkpoint") -> Tensor:
        """Of a video of one frame."""
        return super().encoded(vae, pixels[:, :, None], at)[:, :, 0]

    def decoded(self, vae: Any, latents: Tensor, at: "Checkpoint") -> Tensor:
        """Of a video of one frame."""
        return super().decoded(vae, latents[:, :, None], at)[:, :, 0]

    def ask(self, body: Any, z: Tensor, time: Tensor, words: Words, at: "Checkpoint") -> Tensor:
        """A velocity."""
        height, width = z.shape[2:]
        answer = body(
            hidden_states=packed(z),
            timestep=time / DIFFUSERS_TIME,
            encoder_hidden_states=words["hidden"],
            encoder_hidden_states_mask=words["mask"],
            img_shapes=[[(1, height // 2, width // 2)]] * len(z),
            return_dict=False,
        )[0]
        return unpacked(answer, height, width)

    def rescale(self, guided: Tensor, with_prompt: Tensor) -> Tensor:
        """Each token is as long as without guidance."""
        tokens, unguided = packed(guided), packed(with_prompt)
        lengths = unguided.norm(dim=-1, keepdim=True) / tokens.norm(dim=-1, keepdim=True)
        return unpacked(tokens * lengths, *guided.shape[2:])

    def encode(self, pipe: Any, prompts: Sequence[str], at: "Checkpoint") -> Words:
        """hidden and mask."""
        hidden, mask = pipe.encode_prompt(list(prompts), max_sequence_length=at.text_length)
        return {"hidden": hidden, "mask": torch.ones_like(hidden[..., 0], dtype=torch.long) if mask is None else mask}

    def null_prompt(self, at: "Checkpoint") -> str:
        """A space, as is usual: the pipeline does without guidance unless it is told what to lead away from."""
        return at.options.negative_prompt or " "

    def lengths(self, pipe: Any, at: "Checkpoint") -> Mapping[str, int]:
        """As stated, the template's end included."""
        assert at.text_length is not None
        return {"tokenizer": at.text_length}

    def count(self, pipe: Any, name: str, prompt: str) -> int:
        """Without the template's beginning."""
        told = pipe.prompt_template_encode.format(prompt)
        return super().count(pipe, name, told) - pipe.prompt_template_encode_start_idx

    def num_tokens(self, at: "Checkpoint") -> int:
        """A token for four places."""
        return math.prod(at.latent_shape[1:]) // 4

    def call(self, at: "Checkpoint", spec: SamplerSpec) -> dict[str, Any]:
        """Guidance goes by another name."""
        words = {name: value for name, value in super().call(at, spec).items() if name != "guidance_scale"}
        if spec.guidance != 1:
            words |= {"true_cfg_scale": spec.guidance, "negative_prompt": self.null_prompt(at)}
        return words
