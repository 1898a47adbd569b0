"""Prompts to numbers: a tokeniser of words, of letters where they stand in quotes, and small text encoders.

An encoder that never sees a word's letters cannot say how it is written (Liu et al. 2023, arXiv:2212.10562).

transformers takes seconds to import, so only those who build or read a network do.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from stages.core.config import config
from stages.core.ranges import Size

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, END, UNKNOWN = "[PAD]", "[END]", "[UNK]"


@config
class Clip:
    """CLIP's: transformer layers in which each word sees those before it."""

    kind: Literal["clip"]
    num_layers: Size


@config
class Convolutional:
    """Convolutions over neighbouring words before the layers, for prompts in which it matters which word is whose."""

    kind: Literal["convolutional"]
    num_layers: Size
    kernel_size: Annotated[int, Field(ge=1, le=31)]
    """Words that a convolution sees, an odd number."""

    def __post_init__(self) -> None:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={self.kernel_size}: a word in the middle of its neighbours needs an odd one")


TextEncoderConfig = Annotated[Clip | Convolutional, Field(discriminator="kind")]


def build_tokenizer(prompts: Iterable[str]) -> "PreTrainedTokenizerFast":
    """A tokeniser whose vocabulary is the words of `prompts`, in alphabetical order; each row ends with [END].

    What stands between two double quotes is to be spelled: its letters, and the quotes, are words.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    between = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r'"[^"]*"|"'), "isolated"),
            pre_tokenizers.Split(Regex(r'"|[^"\s](?=[^"]*"\z)'), "isolated"),  # a letter before the closing quote
            pre_tokenizers.WhitespaceSplit(),
        ]
    )
    read = [_words(between, prompt) for prompt in prompts]
    words = sorted({word for row in read for word in row})
    vocabulary = {word: index for index, word in enumerate([PAD, END, UNKNOWN, *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    core.pre_tokenizer = between
    longest = max(map(len, read)) + 1
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, model_max_length=longest
    )


def _words(between: Any, prompt: str) -> list[str]:
    """What a tokeniser's words are, told `between` which it splits."""
    return [word for word, _ in between.pre_tokenize_str(prompt)]


def build_encoder(cfg: Clip | Convolutional, tokenizer: "PreTrainedTokenizerFast", width: int, num_heads: int) -> Any:
    """A text encoder for `tokenizer`'s vocabulary and length, from torch's seed; width is also the pooled size."""
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    assert isinstance(pad, int)
    assert isinstance(end, int)
    if isinstance(cfg, Convolutional):
        from stages.models.reader import ConvolutionalTextEncoder

        return ConvolutionalTextEncoder(
            vocab_size=len(tokenizer),
            width=width,
            num_layers=cfg.num_layers,
            num_heads=num_heads,
            max_length=tokenizer.model_max_length,
            kernel_size=cfg.kernel_size,
            end_id=end,
        )
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=cfg.num_layers,
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
        words = _words(self.tokenizer.backend_tokenizer.pre_tokenizer, prompt)
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
