"""The encoders that make what networks read for prompts.

A network holds a text table, not the encoder: what a prompt means is worked out by the `encode` stage, or beside it,
for all that is trained and sampled later. Only a teacher that learns its text encoder runs it at every call.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from stages.core.messages import listed, shown
from stages.core.prompts import EMPTY
from stages.core.types import Cond, Features
from stages.models.text import Clip, Convolutional, Vocabulary, build_encoder, build_tokenizer

if TYPE_CHECKING:  # see text.py
    from transformers import PreTrainedTokenizerFast


class TextEncoder(Protocol):
    """Makes features of strings, and travels with the models that read them."""

    def encode(self, prompts: Sequence[str]) -> Features:
        """A row a prompt; ValueError names one that it cannot read."""
        ...


class FrozenText:
    """A text encoder that learns no more, with its tokeniser."""

    def __init__(self, encoder: Any, tokenizer: "PreTrainedTokenizerFast") -> None:
        self.encoder, self.vocabulary = encoder, Vocabulary(tokenizer)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Features:
        """Its last hidden states, and the state at each prompt's end."""
        return _read(self.encoder, self.vocabulary(prompts).to(self.encoder.device))


class OneHot:
    """Knows a list of prompts, and tells one from another: for closed forms and what is distilled from them."""

    def __init__(self, prompts: Sequence[str]) -> None:
        """`prompts` begin with the empty one."""
        assert prompts[EMPTY] == ""
        self.prompts = list(prompts)

    def encode(self, prompts: Sequence[str]) -> Features:
        """A 1 where the prompt stands in the list, as one token and as the pooled vector."""
        strange = [prompt for prompt in prompts if prompt not in self.prompts]
        if strange:
            known = listed(self.prompts[1:])
            raise ValueError(f"prompt {shown(strange[0])}: the model does not know it; it knows: {known}")
        pooled = torch.eye(len(self.prompts))[[self.prompts.index(prompt) for prompt in prompts]]
        return {"hidden": pooled[:, None].clone(), "pooled": pooled}


class LearnedText(nn.Module):
    """A text encoder that learns with its network: it reads the prompts of a list at every call."""

    ids: Tensor  # [P, L]

    def __init__(self, prompts: Sequence[str], cfg: Clip | Convolutional, *, width: int, num_heads: int) -> None:
        """`prompts` begin with the empty one; a prompt's row is its place among them."""
        super().__init__()
        assert prompts[EMPTY] == ""
        tokenizer = build_tokenizer(prompts)
        self.encoder = build_encoder(cfg, tokenizer, width, num_heads)
        self.vocabulary = Vocabulary(tokenizer)
        self.register_buffer("ids", self.vocabulary(prompts), persistent=False)

    def __len__(self) -> int:
        return len(self.ids)

    def forward(self, cond: Cond) -> Features:
        """The features of the prompts in rows cond [B, 1]."""
        return _read(self.encoder, self.ids[cond[:, 0]])

    def frozen(self) -> FrozenText:
        """What it has become."""
        return FrozenText(self.encoder, self.vocabulary.tokenizer)


def _read(encoder: Any, ids: Tensor) -> dict[str, Tensor]:
    found = encoder(input_ids=ids)
    return {"hidden": found.last_hidden_state, "pooled": found.pooler_output}
