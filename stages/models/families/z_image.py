"""Z-Image: a flow whose time and sign are the other way round, told of text by Qwen3, of which no pads are read."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from stages.core.spec import SamplerSpec
from stages.models.families.base import DIFFUSERS_TIME, Family, Words

if TYPE_CHECKING:
    from stages.models.checkpoint import Checkpoint


class ZImage(Family):
    """The pipeline's guidance of g is ours of 1 + g."""

    pipeline = "ZImagePipeline"
    text = ("tokenizer", "text_encoder")
    masked = True
    ragged = True
    even = False
    text_length = 512
    sign = -1.0
    targets = (
        *(f"attention.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")),
        *(f"feed_forward.{name}" for name in ("w1", "w2", "w3")),
    )

    def ask(self, body: Any, z: Tensor, time: Tensor, words: Words, at: "Checkpoint") -> Tensor:
        """A velocity towards the data; 1 is where it is."""
        texts = [hidden[mask > 0] for hidden, mask in zip(words["hidden"], words["mask"], strict=True)]
        answer = body(list(z[:, :, None]), 1 - time / DIFFUSERS_TIME, texts, return_dict=False)[0]
        return torch.stack(answer)[:, :, 0]

    def encode(self, pipe: Any, prompts: Sequence[str], at: "Checkpoint") -> Words:
        """hidden and mask."""
        texts, _ = pipe.encode_prompt(
            list(prompts), do_classifier_free_guidance=False, max_sequence_length=at.text_length
        )
        masks = [torch.ones(len(text), dtype=torch.long, device=text.device) for text in texts]
        return {"hidden": pad_sequence(texts, batch_first=True), "mask": pad_sequence(masks, batch_first=True)}

    def lengths(self, pipe: Any, at: "Checkpoint") -> Mapping[str, int]:
        """As stated, the template included."""
        assert at.text_length is not None
        return {"tokenizer": at.text_length}

    def count(self, pipe: Any, name: str, prompt: str) -> int:
        """In its template."""
        told = pipe.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        return super().count(pipe, name, told)

    def middle(self, body: Any) -> nn.Module:
        """Of the layers that see image and text."""
        return body.layers[(len(body.layers) + 1) // 2 - 1]

    def tokens(self, answer: Any, at: "Checkpoint") -> Tensor:
        """The image's, which come first."""
        return answer[:, : self.num_tokens(at)]

    def feature_dim(self, at: "Checkpoint") -> int:
        """F."""
        return at.config(self.denoiser)["dim"]

    def num_tokens(self, at: "Checkpoint") -> int:
        """A token for four places."""
        return math.prod(at.latent_shape[1:]) // 4

    def call(self, at: "Checkpoint", spec: SamplerSpec) -> dict[str, Any]:
        """Its own guidance, 0 for none."""
        return super().call(at, spec) | {"guidance_scale": spec.guidance - 1}
