"""What a family of checkpoints states: what is code in diffusers' pipeline. All else is read from the folder.

A family is one row of `FAMILIES`. Times, signs, packing and scales of its denoiser are converted here and nowhere else:
outside there is the flow's velocity at the unpacked latent [C, H, W] or [C, T, H, W].
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from stages.core.spec import SamplerSpec

if TYPE_CHECKING:
    from stages.models.checkpoint import Checkpoint

Words = dict[str, Tensor]
"""What is known of prompts, a row each, in the type that the denoiser computes in: `hidden` [B, L, D], `pooled` [B, D],
`mask` [B, L] (1 where a token counts), whichever the family has."""
DIFFUSERS_TIME = 1000.0
STOCHASTIC = {"euler": False, "renoise": True}
"""Rules whose steps are those of diffusers' FlowMatchEulerDiscreteScheduler, and whether it draws noise for them."""


class Family(ABC):
    """The facts of one family; what most of them share is stated here."""

    pipeline: ClassVar[str]
    """Class of diffusers whose folders these are, as model_index.json names it."""
    denoiser: ClassVar[str] = "transformer"
    text: ClassVar[tuple[str, ...]]
    """Components that read prompts: tokenisers and encoders."""
    masked: ClassVar[bool] = False
    """Whether the denoiser is told which tokens count; without that the padded length is part of the model."""
    ragged: ClassVar[bool] = False
    """Whether the denoiser takes a list of texts, each as long as it is."""
    even: ClassVar[bool] = True
    """Whether the pipeline pads every prompt alike; else the longest prompt of a table says how far."""
    text_length: ClassVar[int | None] = None
    """Tokens that the pipeline pads to unless told; None where the tokeniser's own length is the only one."""
    multiple: ClassVar[int] = 16
    """Height and width divide by it."""
    targets: ClassVar[tuple[str, ...]]
    """Modules that get adapters by default."""
    guidance: ClassVar[Literal["true", "embedded"]] = "true"
    """Two calls, or a number that the denoiser is given where its configuration says so (`guidance_embeds`)."""
    rounds_time: ClassVar[bool] = False
    """Whether the pipeline casts the time to the type of the latents, so that bfloat16 sees few different ones."""
    last: ClassVar[str | None] = None
    """The denoiser's last layer, where it is float32 whatever the others are: see `families/noise.py`."""
    sign: ClassVar[float] = 1.0
    """Of the velocity in the denoiser's answer."""
    words_of_init: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Of the pipeline's class, beside its components."""
    takes_times: ClassVar[bool] = True
    """Whether the pipeline's call takes times: where it does not, its scheduler is told them."""
    lora: ClassVar[bool] = True
    """Whether diffusers loads adapters for it."""

    def denoisers(self, at: "Checkpoint") -> tuple[str, ...]:
        """Names of the networks that denoise; where there are two, the first is for much noise."""
        return (self.denoiser,)

    def boundary(self, at: "Checkpoint") -> float:
        """Time from which on the first of two is asked."""
        raise ValueError(f"{self.pipeline} has one network; it has no boundary")

    def shape(self, at: "Checkpoint") -> tuple[int, ...]:
        """Of one latent."""
        vae = at.config("vae")
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        return vae["latent_channels"], at.options.height // factor, at.options.width // factor

    def scale(self, at: "Checkpoint") -> tuple[float | Tensor, float | Tensor]:
        """shift and scale, [C, 1, 1] or numbers: a latent is (encoded - shift) * scale."""
        vae = at.config("vae")
        return vae.get("shift_factor") or 0.0, vae["scaling_factor"]

    def encoded(self, vae: Any, pixels: Tensor, at: "Checkpoint") -> Tensor:
        """The mode of the VAE's posterior for images [B, 3, ...] in [-1, 1], not normalised."""
        return vae.encode(pixels).latent_dist.mode()

    def decoded(self, vae: Any, latents: Tensor, at: "Checkpoint") -> Tensor:
        """Images in [-1, 1], about, of latents that are not normalised."""
        return vae.decode(latents, return_dict=False)[0]

    def check(self, at: "Checkpoint") -> None:
        """ValueError for options that the family has no use for."""
        if at.options.frames is not None:
            raise ValueError(f"frames={at.options.frames}: {self.pipeline} makes images; set it to null")

    def embeds_guidance(self, at: "Checkpoint") -> bool:
        """Whether the denoiser takes a guidance as input."""
        return self.guidance == "embedded" and bool(at.config(self.denoiser).get("guidance_embeds"))

    @abstractmethod
    def ask(self, body: Any, z: Tensor, time: Tensor, words: Words, at: "Checkpoint") -> Tensor:
        """The denoiser's answer, of z's shape, at z [B, ...] and time [B] in thousandths, as schedulers count."""
        ...

    def velocity(self, body: Any, x: Tensor, t: Tensor, words: Words, at: "Checkpoint") -> Tensor:
        """The flow's velocity, float32, at (x [B, ...], t [B])."""

        def ask(z: Tensor, time: Tensor) -> Tensor:
            return self.ask(body, z.to(at.dtype), time, words, at).float()

        time = t * DIFFUSERS_TIME
        return self.sign * ask(x, time.to(at.dtype) if self.rounds_time else time)

    def rescale(self, guided: Tensor, with_prompt: Tensor) -> Tensor:
        """What the pipeline makes of the velocity [B, ...] under guidance."""
        return guided

    @abstractmethod
    def encode(self, pipe: Any, prompts: Sequence[str], at: "Checkpoint") -> Words:
        """What the denoiser reads for prompts, by the encoders of `pipe`, the family's pipeline without a denoiser."""
        ...

    def null(self, pipe: Any, at: "Checkpoint") -> Words:
        """The same, one row, for no prompt: what the pipeline takes where no negative prompt is given."""
        return self.encode(pipe, [self.null_prompt(at)], at)

    def null_prompt(self, at: "Checkpoint") -> str:
        """What stands for none where it is read like any other."""
        return at.options.negative_prompt or ""

    @abstractmethod
    def lengths(self, pipe: Any, at: "Checkpoint") -> Mapping[str, int]:
        """Tokens that each tokeniser of `pipe` may give: what is beyond them is cut off."""
        ...

    def most_tokens(self, at: "Checkpoint") -> int:
        """Tokens of `hidden`, at most, told without an encoder."""
        return at.text_length or at.tokenizer_length("tokenizer")

    def padded(self, pipe: Any, prompts: Iterable[str], at: "Checkpoint") -> int:
        """Tokens of `hidden` in a table of these prompts and of none, told without an encoder."""
        if self.even:
            return self.most_tokens(at)
        ((name, most),) = self.lengths(pipe, at).items()
        return min(most, max(self.count(pipe, name, prompt) for prompt in [self.null_prompt(at), *prompts]))

    def count(self, pipe: Any, name: str, prompt: str) -> int:
        """Tokens of `prompt` by the tokeniser of that name, none cut off."""
        return len(getattr(pipe, name)(prompt).input_ids)

    def middle(self, body: Any) -> nn.Module:
        """The block whose answer is shown as features."""
        blocks = body.transformer_blocks
        return blocks[(len(blocks) + 1) // 2 - 1]

    def tokens(self, answer: Any, at: "Checkpoint") -> Tensor:
        """Features [B, T, F] of that block's answer: the image's tokens, which come last."""
        return answer[-1] if isinstance(answer, tuple) else answer

    def feature_dim(self, at: "Checkpoint") -> int:
        """F."""
        settings = at.config(self.denoiser)
        return settings["num_attention_heads"] * settings["attention_head_dim"]

    def levels(self, at: "Checkpoint", num_steps: int) -> tuple[float, ...]:
        """Times of the checkpoint's own sampler: even steps, moved as its scheduler says."""
        scheduler, shift = at.config("scheduler"), self.shift(at, num_steps)
        times = [shift * t / (1 + (shift - 1) * t) for t in (1 - i / num_steps for i in range(num_steps))]
        terminal = scheduler.get("shift_terminal")
        if terminal and num_steps > 1:
            stretch = (1 - times[-1]) / (1 - terminal)
            times = [1 - (1 - t) / stretch for t in times]
        return (*times, 0.0)

    def shift(self, at: "Checkpoint", num_steps: int) -> float:
        """How far times are pushed towards noise: 1 is not at all."""
        scheduler = at.config("scheduler")
        if not scheduler.get("use_dynamic_shifting"):
            return float(scheduler.get("flow_shift" if scheduler.get("use_flow_sigmas") else "shift", 1.0))
        low, high = scheduler.get("base_image_seq_len", 256), scheduler.get("max_image_seq_len", 4096)
        least, most = scheduler.get("base_shift", 0.5), scheduler.get("max_shift", 1.15)
        return math.exp(least + (most - least) * (self.num_tokens(at) - low) / (high - low))

    def num_tokens(self, at: "Checkpoint") -> int:
        """Of an image inside the denoiser, where that decides the shift."""
        raise ValueError(f"{at.folder}: its scheduler asks for a shift by size, which no {self.pipeline} here has")

    def scheduler(self, at: "Checkpoint", spec: SamplerSpec) -> tuple[Any, dict[str, Any]] | None:
        """diffusers' scheduler for the steps of `spec`, and the call's words that give it the times, if it has one.

        Its own shift is none, so that times given are times taken.
        """
        from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

        if spec.rule["name"] not in STOCHASTIC:
            return None
        made = FlowMatchEulerDiscreteScheduler(shift=1.0, stochastic_sampling=STOCHASTIC[spec.rule["name"]])
        return made, {"sigmas": list(spec.times[:-1]), "num_inference_steps": spec.num_steps}

    def fitted(self, at: "Checkpoint", spec: SamplerSpec) -> SamplerSpec:
        """`spec` with the nearest times that diffusers' scheduler can take; for a flow they are its own."""
        return spec

    def call(self, at: "Checkpoint", spec: SamplerSpec) -> dict[str, Any]:
        """Words of the stock pipeline's call, beside prompt and times, with which it samples as we do."""
        options = at.options
        words: dict[str, Any] = {"height": options.height, "width": options.width}
        if self.text_length is not None:
            words["max_sequence_length"] = at.text_length
        if options.negative_prompt and spec.guidance != 1:
            words["negative_prompt"] = options.negative_prompt
        return words | {
            "guidance_scale": spec.guidance if options.embedded_guidance is None else options.embedded_guidance
        }


def listed(value: float, like: Tensor) -> Tensor:
    """`value` for each row of `like`."""
    return torch.full((len(like),), value, dtype=torch.float32, device=like.device)
