"""What networks read for prompts: a table with a row a prompt, and the encoders that make it.

A network holds the table, not the encoder: what a prompt means is worked out once, by the `encode` stage, for all
that is trained and sampled later. Only a teacher that learns its text encoder runs it at every call.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stages.core import tensors
from stages.core.messages import listed, pick, shown
from stages.core.prompts import EMPTY
from stages.core.types import Cond
from stages.models.text import Clip, Convolutional, Vocabulary, build_encoder, build_tokenizer

if TYPE_CHECKING:  # see text.py
    from transformers import PreTrainedTokenizerFast

Features = Mapping[str, Tensor]
"""What is known of prompts, a row each: `hidden` [n, L, D], `pooled` [n, D], `mask` [n, L], as networks ask for it."""

PROMPT = "prompt of the text table"
_INDEX = "table.json"
LARGE = 2**30
"""Bytes of a table, beyond which only the rows that are asked for go to where they are asked for."""


class TextTable:
    """Features of prompts by row; row 0 is the empty prompt. Copies of a network share it."""

    def __init__(self, prompts: Sequence[str], features: Features) -> None:
        assert prompts[EMPTY] == ""
        self.prompts, self.features = tuple(prompts), dict(features)

    def __call__(self, cond: Cond) -> dict[str, Tensor]:
        """The features of the prompts in rows cond [B, 1], on whose device the table stays if it is small."""
        if sum(rows.nbytes for rows in self.features.values()) > LARGE:
            asked = cond[:, 0].cpu()
            return {name: rows[asked].to(cond.device) for name, rows in self.features.items()}
        found = dict[str, Tensor]()
        for name, rows in self.features.items():
            self.features[name] = rows.to(cond.device)
            found[name] = self.features[name][cond[:, 0]]
        return found

    def __deepcopy__(self, _memo: object) -> Self:
        return self

    def rows(self, texts: Iterable[str]) -> dict[str, int]:
        """Of these prompts; ValueError names one that it lacks."""
        place = {text: row for row, text in enumerate(self.prompts)}
        return {text: pick(place, text, PROMPT) for text in texts}

    def save(self, folder: Path) -> None:
        """Write it as one file of features and an index."""
        tensors.save(folder / "text-00000.safetensors", self.features)
        write_index(folder, self.prompts, {})

    @classmethod
    def load(cls, folder: Path) -> "TextTable":
        """The table of an `encode` artefact, whose files follow each other by name."""
        prompts = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["prompts"]
        parts = [load_file(file) for file in sorted(folder.glob("text-*.safetensors"))]
        return cls(prompts, joined(parts))


def joined(parts: Sequence[Features]) -> dict[str, Tensor]:
    """Their rows behind each other. Where they have another number of tokens, which a mask tells, zeros are added."""
    return {name: _stacked([part[name] for part in parts]) for name in parts[0]}


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    if parts[0].dim() > 1:
        longest = max(part.shape[1] for part in parts)
        ends = (0, 0) * (parts[0].dim() - 2)
        parts = [nn.functional.pad(part, (*ends, 0, longest - part.shape[1])) for part in parts]
    return torch.cat(list(parts))


def write_index(folder: Path, prompts: Sequence[str], cut: Mapping[str, int]) -> None:
    """Say in `folder` which prompts the rows of its files stand for, and by how many tokens too long ones are `cut`."""
    told = {"prompts": list(prompts)} | ({"cut": dict(cut)} if cut else {})
    (folder / _INDEX).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


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

    def forward(self, cond: Cond) -> Features:
        """The features of the prompts in rows cond [B, 1]."""
        return _read(self.encoder, self.ids[cond[:, 0]])

    def frozen(self) -> FrozenText:
        """What it has become."""
        return FrozenText(self.encoder, self.vocabulary.tokenizer)


def _read(encoder: Any, ids: Tensor) -> dict[str, Tensor]:
    found = encoder(input_ids=ids)
    return {"hidden": found.last_hidden_state, "pooled": found.pooler_output}
