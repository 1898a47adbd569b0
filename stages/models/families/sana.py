"""SANA: a flow in the small latents of a DC-AE, told by Gemma 2 of prompts that an instruction stands before."""

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from stages.core.spec import SamplerSpec
from stages.models.families.base import Family, Words

if TYPE_CHECKING:
    from stages.models.checkpoint import Checkpoint


class Sana(Family):
    """The instruction stands before prompts, and not before the negative one."""

    pipeline = "SanaPipeline"
    text = ("tokenizer", "text_encoder")
    masked = True
    text_length = 300
    multiple = 32
    targets = ("to_q", "to_k", "to_v", "to_out.0")

    def shape(self, at: "Checkpoint") -> tuple[int, ...]:
        """[C, H, W]."""
        vae = at.config("vae")
        factor = 2 ** (len(vae["encoder_block_out_channels"]) - 1)
        return vae["latent_channels"], at.options.height // factor, at.options.width // factor

    def encoded(self, vae: Any, pixels: Tensor, at: "Checkpoint") -> Tensor:
        """Without a posterior."""
        return vae.encode(pixels, return_dict=False)[0]

    def ask(self, body: Any, z: Tensor, time: Tensor, words: Words, at: "Checkpoint") -> Tensor:
        """A velocity, in the first half of the channels where there are twice as many."""
        answer = body(
            z,
            encoder_hidden_states=words["hidden"],
            encoder_attention_mask=words["mask"],
            timestep=time * at.config(self.denoiser).get("timestep_scale", 1.0),
            return_dict=False,
        )[0]
        return answer[:, : z.shape[1]]

    def encode(self, pipe: Any, prompts: Sequence[str], at: "Checkpoint") -> Words:
        """hidden and mask."""
        return self._read(pipe, prompts, at, _instruction(pipe))

    def null(self, pipe: Any, at: "Checkpoint") -> Words:
        """As it stands."""
        return self._read(pipe, [at.options.negative_prompt or ""], at, None)

    def _read(self, pipe: Any, prompts: Sequence[str], at: "Checkpoint", instruction: Sequence[str] | None) -> Words:
        hidden, mask, _, _ = pipe.encode_prompt(
            list(prompts),
            do_classifier_free_guidance=False,
            max_sequence_length=at.text_length,
            complex_human_instruction=instruction,
        )
        return {"hidden": hidden, "mask": mask}

    def lengths(self, pipe: Any, at: "Checkpoint") -> Mapping[str, int]:
        """As stated."""
        assert at.text_length is not None
        return {"tokenizer": at.text_length}

    def count(self, pipe: Any, name: str, prompt: str) -> int:
        """Beyond the instruction, as the pipeline counts: two of the instruction's are the prompt's."""
        before = "\n".join(_instruction(pipe))
        return super().count(pipe, name, before + prompt.lower().strip()) - super().count(pipe, name, before) + 2

    def call(self, at: "Checkpoint", spec: SamplerSpec) -> dict[str, Any]:
        """In the size that is asked for."""
        return super().call(at, spec) | {"use_resolution_binning": False}


def _instruction(pipe: Any) -> Sequence[str]:
    """That which the pipeline's call has unless it is told another."""
    return inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default
