"""Prompts to numbers: a word-level tokeniser and a small CLIP text encoder, both in transformers' own formats.

transformers takes seconds to import, so only those who build or read a network do.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import CLIPTextModel, PreTrainedTokenizerFast

PAD, END, UNKNOWN = "[PAD]", "[END]", "[UNK]"


def build_tokenizer(prompts: Iterable[str]) -> "PreTrainedTokenizerFast":
    """A tokeniser whose vocabulary is the words of `prompts`, in alphabetical order; each row ends with [END]."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    prompts = list(prompts)
    words = sorted({word for prompt in prompts for word in prompt.split()})
    vocabulary = {word: index for index, word in enumerate([PAD, END, UNKNOWN, *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    longest = max(len(prompt.split()) for prompt in prompts) + 1
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, model_max_length=longest
    )


def build_encoder(tokenizer: "PreTrainedTokenizerFast", width: int, num_layers: int, num_heads: int) -> "CLIPTextModel":
    """A text encoder for `tokenizer`'s vocabulary and length; width is also the pooled size."""
    from transformers import CLIPTextConfig, CLIPTextModel

    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    assert isinstance(pad, int)
    assert isinstance(end, int)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            max_position_embeddings=tokenizer.model_max_length,
            pad_token_id=pad,
            bos_token_id=end,
            eos_token_id=end,
        )
    )


class Vocabulary:
    """Prompt -> tokens int64 [L], remembered, since experiments ask for the same prompts again and again."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, Tensor] = {}

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """int64 [B, L]; ValueError names a word that the vocabulary lacks."""
        for prompt in set(prompts) - self._known.keys():
            self._known[prompt] = self._tokenize(prompt)
        return torch.stack([self._known[prompt] for prompt in prompts])

    def _tokenize(self, prompt: str) -> Tensor:
        words = prompt.split()
        known = self.tokenizer.get_vocab()
        strange = [word for word in words if word not in known]
        room = self.tokenizer.model_max_length
        if strange:
            valid = ", ".join(sorted(set(known) - {PAD, END, UNKNOWN}))
            raise ValueError(f"prompt {prompt!r}: the model does not know the word {strange[0]!r}; it knows: {valid}")
        if len(words) >= room:
            raise ValueError(f"prompt {prompt!r}: {len(words)} words, the model reads at most {room - 1}")
        ids = [known[word] for word in words] + [known[END]]
        return torch.tensor(ids + [known[PAD]] * (room - len(ids)), dtype=torch.int64)
