"""Stable Diffusion 3 and 3.5: two CLIPs joined on channels, then T5; a flow, its time in thousandths."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from stages.models.families.base import Family, Words

if TYPE_CHECKING:
    from stages.models.checkpoint import Checkpoint


class StableDiffusion3(Family):
    """No mask: T5's pads are read too."""

    pipeline = "StableDiffusion3Pipeline"
    text = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "tokenizer_3", "text_encoder_3")
    text_length = 256
    targets = tuple(
        f"attn.{name}"
        for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    )

    def ask(self, body: Any, z: Tensor, time: Tensor, words: Words, at: "Checkpoint") -> Tensor:
        """A velocity."""
        return body(
            hidden_states=z,
            timestep=time,
            encoder_hidden_states=words["hidden"],
            pooled_projections=words["pooled"],
            return_dict=False,
        )[0]

    def encode(self, pipe: Any, prompts: Sequence[str], at: "Checkpoint") -> Words:
        """hidden and pooled."""
        hidden, _, pooled, _ = pipe.encode_prompt(
            prompt=list(prompts),
            prompt_2=None,
            prompt_3=None,
            do_classifier_free_guidance=False,
            max_sequence_length=at.text_length,
        )
        return {"hidden": hidden, "pooled": pooled}

    def most_tokens(self, at: "Checkpoint") -> int:
        """The CLIPs', then T5's."""
        return at.tokenizer_length("tokenizer") + super().most_tokens(at)

    def lengths(self, pipe: Any, at: "Checkpoint") -> Mapping[str, int]:
        """The CLIPs' own, and T5's as stated."""
        assert at.text_length is not None
        clip = pipe.tokenizer_max_length
        return {"tokenizer": clip, "tokenizer_2": clip, "tokenizer_3": at.text_length}
