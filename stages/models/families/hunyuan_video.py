"""HunyuanVideo: a flow for videos, told of text by LLaMA in a template and by CLIP's pooled; guidance an input."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from stages.core.spec import SamplerSpec
from stages.models.families.base import Words, listed
from stages.models.families.video import Video

if TYPE_CHECKING:
    from stages.models.checkpoint import Checkpoint

_CLIP_LENGTH = 77
_GUIDANCE_UNIT = 1000.0
"""The network counts guidance in thousandths, as it does times."""


class HunyuanVideo(Video):
    """The template is cut off again."""

    pipeline = "HunyuanVideoPipeline"
    text = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    masked = True
    text_length = 256
    guidance = "embedded"
    targets = (
        *(f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")),
        *(f"attn.{name}" for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")),
    )

    def factors(self, vae: Mapping[str, Any]) -> tuple[int, int]:
        """As it states them."""
        return vae["temporal_compression_ratio"], vae["spatial_compression_ratio"]

    def ask(self, body: Any, z: Tensor, time: Tensor, words: Words, at: "Checkpoint") -> Tensor:
        """A velocity."""
        guidance = at.options.embedded_guidance
        return body(
            hidden_states=z,
            timestep=time,
            encoder_hidden_states=words["hidden"],
            encoder_attention_mask=words["mask"].to(z.dtype),
            pooled_projections=words["pooled"],
            guidance=None if guidance is None else listed(guidance, z).to(z.dtype) * _GUIDANCE_UNIT,
            return_dict=False,
        )[0]

    def encode(self, pipe: Any, prompts: Sequence[str], at: "Checkpoint") -> Words:
        """hidden, pooled and mask."""
        hidden, pooled, mask = pipe.encode_prompt(list(prompts), max_sequence_length=at.text_length)
        return {"hidden": hidden, "pooled": pooled, "mask": mask}

    def lengths(self, pipe: Any, at: "Checkpoint") -> Mapping[str, int]:
        """LLaMA's as stated, the template's end included; CLIP's own."""
        assert at.text_length is not None
        return {"tokenizer": at.text_length, "tokenizer_2": _CLIP_LENGTH}

    def count(self, pipe: Any, name: str, prompt: str) -> int:
        """LLaMA's without the template's beginning."""
        from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE

        if name == "tokenizer_2":
            return super().count(pipe, name, prompt)
        told = DEFAULT_PROMPT_TEMPLATE["template"].format(prompt)
        return super().count(pipe, name, told) - DEFAULT_PROMPT_TEMPLATE["crop_start"]

    def tokens(self, answer: Any, at: "Checkpoint") -> Tensor:
        """The video's, which come first."""
        return answer[0]

    def call(self, at: "Checkpoint", spec: SamplerSpec) -> dict[str, Any]:
        """Guidance that takes two calls goes by another name."""
        words = super().call(at, spec) | {"guidance_scale": at.options.embedded_guidance or 1.0}
        if spec.guidance != 1:
            words |= {"true_cfg_scale": spec.guidance, "negative_prompt": at.options.negative_prompt or ""}
        return words
