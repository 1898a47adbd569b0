"""A call of diffusers' SD3 transformer between two blocks, or within one: for fields that save a part of the work."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Joint:
    """A block's attention, in which tokens and words look at all of both."""

    layer: Any

    def heads(self, tokens: Tensor, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [R, heads, T + L, W / heads] of tokens [R, T, W] and then of words [R, L, W]."""
        layer = self.layer
        of_tokens = (layer.to_q, layer.to_k, layer.to_v)
        of_words = (layer.add_q_proj, layer.add_k_proj, layer.add_v_proj)
        query, key, value = (
            torch.cat([self._split(one(tokens)), self._split(other(words))], dim=2)
            for one, other in zip(of_tokens, of_words, strict=True)
        )
        return query, key, value

    def mixed(
        self, query: Tensor, key: Tensor, value: Tensor, num_tokens: int, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What attention makes of the first `num_tokens` queries, and of the others, the words'.

        `bias` [R, 1, 1, keys] is added to what a query makes of a key.
        """
        return self.told(F.scaled_dot_product_attention(query, key, value, attn_mask=bias), num_tokens)

    def told(self, made: Tensor, num_tokens: int) -> tuple[Tensor, Tensor]:
        """What comes of values [R, heads, T + L, W / heads] that were looked up for tokens, and then for words."""
        made = made.transpose(1, 2).flatten(2)
        tokens, words = made[:, :num_tokens], made[:, num_tokens:]
        if not self.layer.context_pre_only:
            words = self.layer.to_add_out(words)
        return self.layer.to_out[0](tokens), words

    def __call__(self, tokens: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """What it makes of both."""
        return self.mixed(*self.heads(tokens, words), num_tokens=tokens.shape[1])

    def _split(self, made: Tensor) -> Tensor:
        return made.unflatten(2, (self.layer.heads, -1)).transpose(1, 2)


Attend = Callable[[int, Joint, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(block, its attention, tokens before the block, the same after its norm, words after theirs) -> what it makes of
tokens and of words. Of words it is not asked in the last block, whose answer for them nobody reads."""


@dataclass(frozen=True)
class Opened:
    """A call between two blocks: tokens of images [R, T, W] and of prompts, and the embedding of the time."""

    body: Any
    tokens: Tensor
    words: Tensor
    time: Tensor

    def after(self, blocks: range, attend: Attend | None = None) -> "Opened":
        """The same after these blocks, with `attend` in the place of each one's attention."""
        words, tokens = self.words, self.tokens
        for number in blocks:
            block = self.body.transformer_blocks[number]
            if attend is None:
                words, tokens = block(hidden_states=tokens, encoder_hidden_states=words, temb=self.time)
            else:
                words, tokens = self._within(number, block, tokens, words, attend)
        return replace(self, tokens=tokens, words=words)

    def _within(self, number: int, block: Any, tokens: Tensor, words: Tensor, attend: Attend) -> tuple[Any, Tensor]:
        shown, gate, shift, scale, last_gate = block.norm1(tokens, emb=self.time)
        if block.context_pre_only:
            told, of_words = block.norm1_context(words, self.time), None
        else:
            told, *of_words = block.norm1_context(words, emb=self.time)
        seen, read = attend(number, Joint(block.attn), tokens, shown, told)
        tokens = _gone_through(block.norm2, block.ff, tokens + gate.unsqueeze(1) * seen, shift, scale, last_gate)
        if of_words is None:
            return None, tokens
        gate, shift, scale, last_gate = of_words
        words = words + gate.unsqueeze(1) * read
        return _gone_through(block.norm2_context, block.ff_context, words, shift, scale, last_gate), tokens

    def take(self, rows: Tensor) -> "Opened":
        """The samples `rows`, int64 [N]."""
        return replace(self, tokens=self.tokens[rows], words=self.words[rows], time=self.time[rows])

    def at(self, tokens: Tensor) -> "Opened":
        """Of each row some of its tokens, int64 [R, A]; words as they are."""
        return replace(self, tokens=self.tokens.gather(1, tokens[..., None].expand(-1, -1, self.tokens.shape[2])))

    def patches(self) -> Tensor:
        """[R, T, patch x patch x channels]: what the network's last layers make of each token."""
        return self.body.proj_out(self.body.norm_out(self.tokens, self.time))

    def pixels(self, patches: Tensor) -> Tensor:
        """The velocity [R, C, H, W] that patches are together."""
        side, patch = math.isqrt(patches.shape[1]), self.body.config.patch_size
        squares = patches.reshape(len(patches), side, side, patch, patch, self.body.out_channels)
        return squares.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, side * patch, side * patch)

    def answer(self) -> Tensor:
        """The velocity [R, C, H, W] that the network's last layers make of the tokens as they are."""
        return self.pixels(self.patches())

    def attention_work(self, number: int, tokens: int, seen: int) -> int:
        """Multiply-adds of a block's attention for one row: of so many tokens, which look at as many as are `seen`."""
        layer, words = self.body.transformer_blocks[number].attn, self.words.shape[1]
        kinds = [("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")]
        of_tokens, of_words = (sum(getattr(layer, name).weight.numel() for name in names) for names in kinds)
        out = layer.to_out[0].weight.numel()
        looks = self.looking_work(number, tokens + words, seen + words)
        return (of_tokens + out) * tokens + (of_words + (0 if layer.context_pre_only else out)) * words + looks

    def looking_work(self, number: int, queries: int, keys: int) -> int:
        """The same of so many queries that look at so many keys."""
        return 2 * self.body.transformer_blocks[number].attn.to_q.weight.shape[0] * queries * keys

    def other_work(self, number: int, tokens: int) -> int:
        """The same of all else in the block, for so many tokens: what reads the time, and what looks at one alone."""
        block = self.body.transformer_blocks[number]
        spent = block.norm1.linear.weight.numel() + block.norm1_context.linear.weight.numel() + tokens * _size(block.ff)
        return spent if block.context_pre_only else spent + self.words.shape[1] * _size(block.ff_context)

    def share(self, spent: int) -> float:
        """Of the work of all blocks; first and last layers are taken for nothing."""
        count = self.tokens.shape[1]
        numbers = range(len(self.body.transformer_blocks))
        return spent / sum(self.attention_work(n, count, count) + self.other_work(n, count) for n in numbers)


def _gone_through(norm: Any, layers: Any, x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
    """After what looks at one token alone."""
    return x + gate.unsqueeze(1) * layers(norm(x) * (1 + scale[:, None]) + shift[:, None])


def _size(layers: Any) -> int:
    """Multiply-adds for one token."""
    return sum(each.weight.numel() for each in layers.modules() if hasattr(each, "weight"))
