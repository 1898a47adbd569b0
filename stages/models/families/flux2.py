"""FLUX.2 dev and klein: latents packed two by two and normalised by the VAE's batch norm; text from inner layers."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from stages.core.spec import SamplerSpec
from stages.models.families.base import DIFFUSERS_TIME, Family, Words, listed

if TYPE_CHECKING:
    from stages.models.checkpoint import Checkpoint


class Flux2(Family):
    """dev: Mistral reads prompts, guidance is an input. A latent is the packed one, [4 C, H, W]."""

    pipeline = "Flux2Pipeline"
    text = ("tokenizer", "text_encoder")
    text_length = 512
    guidance = "embedded"
    rounds_time = True
    targets = (
        *(f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")),
        *(f"attn.{name}" for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")),
        *(f"{name}.{place}" for name in ("ff", "ff_context") for place in ("linear_in", "linear_out")),
        "attn.to_qkv_mlp_proj", "attn.to_out",
    )  # fmt: skip

    def shape(self, at: "Checkpoint") -> tuple[int, ...]:
        """[4 C, H, W]."""
        channels, height, width = super().shape(at)
        return 4 * channels, height // 2, width // 2

    def scale(self, at: "Checkpoint") -> tuple[float, float]:
        """The VAE's own weights say it, see `encoded`."""
        return 0.0, 1.0

    def encoded(self, vae: Any, pixels: Tensor, at: "Checkpoint") -> Tensor:
        """Packed and normalised."""
        mean, deviation = statistics(vae)
        return (pixel_unshuffle(super().encoded(vae, pixels, at), 2) - mean) / deviation

    def decoded(self, vae: Any, latents: Tensor, at: "Checkpoint") -> Tensor:
        """The inverse first."""
        mean, deviation = statistics(vae)
        return super().decoded(vae, pixel_shuffle(latents * deviation + mean, 2), at)

    def ask(self, body: Any, z: Tensor, time: Tensor, words: Words, at: "Checkpoint") -> Tensor:
        """A velocity; places are (0, row, column, 0), and (0, 0, 0, place) of text."""
        guidance = at.options.embedded_guidance
        (height, width), length = z.shape[2:], words["hidden"].shape[1]
        one = torch.arange(1)
        places = torch.cartesian_prod(one, torch.arange(height), torch.arange(width), one)
        answer = body(
            hidden_states=z.flatten(2).transpose(1, 2),
            timestep=time / DIFFUSERS_TIME,
            guidance=None if guidance is None else listed(guidance, z),
            encoder_hidden_states=words["hidden"],
            txt_ids=torch.cartesian_prod(one, one, one, torch.arange(length)).to(z.device),
            img_ids=places.to(z.device),
            return_dict=False,
        )[0]
        return answer.transpose(1, 2).unflatten(2, (height, width))

    def encode(self, pipe: Any, prompts: Sequence[str], at: "Checkpoint") -> Words:
        """hidden."""
        hidden, _ = pipe.encode_prompt(list(prompts), max_sequence_length=at.text_length)
        return {"hidden": hidden}

    def lengths(self, pipe: Any, at: "Checkpoint") -> Mapping[str, int]:
        """As stated, the template included."""
        assert at.text_length is not None
        return {"tokenizer": at.text_length}

    def count(self, pipe: Any, name: str, prompt: str) -> int:
        """In its conversation."""
        from diffusers.pipelines.flux2.pipeline_flux2 import format_input

        told = format_input([prompt], system_message=pipe.system_message)
        ids = pipe.tokenizer.apply_chat_template(told, add_generation_prompt=False, tokenize=True, return_dict=True)
        return len(ids["input_ids"][0])

    def shift(self, at: "Checkpoint", num_steps: int) -> float:
        """It depends on the number of steps."""
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        if not at.config("scheduler").get("use_dynamic_shifting"):
            return super().shift(at, num_steps)
        return math.exp(compute_empirical_mu(math.prod(at.latent_shape[1:]), num_steps))

    def call(self, at: "Checkpoint", spec: SamplerSpec) -> dict[str, Any]:
        """It knows no negative prompt."""
        return {name: value for name, value in super().call(at, spec).items() if name != "negative_prompt"}


class Flux2Klein(Flux2):
    """klein: Qwen3 reads prompts; guidance takes two calls, and leads away from the empty prompt."""

    pipeline = "Flux2KleinPipeline"
    guidance = "true"

    def check(self, at: "Checkpoint") -> None:
        """No negative prompt."""
        super().check(at)
        if at.options.negative_prompt is not None:
            raise ValueError(f"negative_prompt: {self.pipeline} knows none but the empty one; set it to null")

    def count(self, pipe: Any, name: str, prompt: str) -> int:
        """In its template."""
        told = pipe.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return len(pipe.tokenizer(told).input_ids)


def statistics(vae: Any) -> tuple[Tensor, Tensor]:
    """Means and deviations [1, 4 C, 1, 1]."""
    mean, variance = (getattr(vae.bn, name).view(1, -1, 1, 1) for name in ("running_mean", "running_var"))
    return mean, (variance + vae.config.batch_norm_eps).sqrt()
