"""A checkpoint's denoiser as a velocity, and the encoders that read prompts for it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from stages.core.prompts import EMPTY
from stages.core.types import Cond, Features
from stages.models.checkpoint import Checkpoint
from stages.models.experts import Experts, by_expert, parts
from stages.models.table import Text, joined

BATCH = 16
"""Prompts that encoders see at once, unless they are told another number."""


class Pretrained(nn.Module):
    """Flow velocity [B, *shape] of a checkpoint's denoiser: float32 in and out, whatever the denoiser computes in."""

    def __init__(self, body: nn.Module, text: Text, at: Checkpoint) -> None:
        super().__init__()
        self.body, self.text, self.at = body, text, at
        self.feature_dim = at.family.feature_dim(at)

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The velocity at (x [B, *shape], t [B])."""
        return by_expert(self.body, t, lambda body, rows: self._velocity(body, x[rows], t[rows], cond[rows]))

    def _velocity(self, body: nn.Module, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        words = {
            name: rows.to(self.at.dtype) if rows.is_floating_point() else rows for name, rows in self.text(cond).items()
        }
        return self.at.family.velocity(body, x, t, words, self.at)

    def add_second_time(self, _seed: int) -> None:
        """ValueError: a pipeline has no word for it."""
        raise ValueError(
            f"{self.at.folder}: a checkpoint's network has one time, and its pipeline has no word for a second; take a "
            "method that trains a network of one time"
        )

    def add_policy(self, _choice: object, _seed: int) -> None:
        """ValueError: a pipeline has no word for it either."""
        raise ValueError(
            f"{self.at.folder}: a checkpoint's network answers a velocity, and its pipeline has no word for a policy; "
            "take a method that trains a velocity"
        )

    def add_latent_variable(self, _size: int, _seed: int) -> None:
        """ValueError: nor for that."""
        raise ValueError(
            f"{self.at.folder}: a checkpoint's network is told no noise of its own, for which its pipeline has no "
            "word; take a method whose student has none"
        )

    def add_negative_reader(self, _seed: int) -> None:
        """ValueError: nor for two prompts in one call."""
        raise ValueError(
            f"{self.at.folder}: a checkpoint's network reads no negative prompt within one call, for which its "
            "pipeline has no word; take a method whose student reads none"
        )

    def may_carry(self, *_made: object) -> None:
        """ValueError: nor for another network."""
        raise ValueError(
            f"{self.at.folder}: a checkpoint's network carries no other, for which its pipeline has no word; take a "
            "method whose student carries none, and no companion"
        )

    add_companion = add_new_companion = may_carry

    def rescale(self, guided: Tensor, with_prompt: Tensor) -> Tensor:
        """What the pipeline makes of the velocity under guidance, given also that without."""
        return self.at.family.rescale(guided, with_prompt)

    def features(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Image tokens [B, T, feature_dim] half-way up, float32; the blocks above are not run."""
        return by_expert(self.body, t, lambda body, rows: self._features(body, x[rows], t[rows], cond[rows]))

    def _features(self, body: nn.Module, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        found: list[Tensor] = []

        def stop(_block: nn.Module, _inputs: object, answer: Any) -> None:
            found.append(self.at.family.tokens(answer, self.at))
            raise _Enough

        hook = self.at.family.middle(body).register_forward_hook(stop)
        try:
            self._velocity(body, x, t, cond)
        except _Enough:
            pass
        finally:
            hook.remove()
        return found[0].float()

    def compile_blocks(self) -> None:
        """Have the blocks that it repeats compiled, each kind once."""
        for body in cast("list[Any]", list(parts(self.body, "").values())):
            kinds = body._repeated_blocks or body._no_split_modules  # as diffusers names them, where it does
            for block in (module for module in body.modules() if type(module).__name__ in kinds):
                block.compile()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Pretrained":
        """With a body of its own; the text table and the checkpoint's facts are shared."""
        import copy

        made = Pretrained(copy.deepcopy(self.body, memo), self.text, self.at)
        return made.train(self.training)


class _Enough(Exception):
    """Features are there."""


def component(at: Checkpoint, name: str, dtype: torch.dtype, own: Path | None = None) -> Any:
    """A network of the checkpoint, its weights from folder `own` if stated; in evaluation mode, without gradients."""
    with _quiet():
        import diffusers
        import transformers

        library, kind = at.index[name]
        source = getattr({"diffusers": diffusers, "transformers": transformers}[library], kind, None)
        if source is None:
            raise ValueError(f"{at.folder}: {name} is a {kind}, which this {library} has not")
        variant = None if own else at.variant_of(name)
        made = source.from_pretrained(
            own or at.folder / name, local_files_only=True, use_safetensors=True, dtype=dtype, variant=variant
        )
    return made.eval().requires_grad_(False)


def build(at: Checkpoint, text: Text, own: Path | None = None) -> Pretrained:
    """The checkpoint's denoiser, with weights from folders in `own` if stated, that reads `text`.

    ValueError where that has another number of tokens than the denoiser was made to read, and it is told of no mask.
    """
    most = at.family.most_tokens(at)
    if not at.family.masked and text.length != most:
        raise ValueError(
            f"{own or at.folder}: reads {most} tokens of each prompt, and the text table has {text.length}; without a "
            "mask the padded length is part of the model: make both with the same text_length"
        )
    made = {name: component(at, name, at.dtype, own and own / name) for name in at.family.denoisers(at)}
    for body in made.values() if at.family.last else ():
        body.get_submodule(at.family.last).float().register_forward_pre_hook(_widen)
    body = Experts(made, at.family.boundary(at)) if len(made) > 1 else made[at.family.denoiser]
    return Pretrained(body, text, at)


def _widen(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each.float() for each in inputs)


class PipelineText:
    """The encoders of a checkpoint, which are in memory only while they read."""

    def __init__(self, at: Checkpoint, device: str | torch.device, batch_size: int = BATCH) -> None:
        self.at, self.device, self.batch_size = at, device, batch_size

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Features:
        """A row a prompt; the empty one stands for none, or for the negative prompt that is stated."""
        family, read = self.at.family, []
        with self.pipeline() as pipe:
            none = family.null(pipe, self.at)
            real = [prompt for prompt in prompts if prompt]
            for first in range(0, len(real), self.batch_size):
                read.append(family.encode(pipe, real[first : first + self.batch_size], self.at))
        rows = joined([none, *read])
        place = iter(range(1, len(real) + 1))
        index = torch.tensor([next(place) if prompt else EMPTY for prompt in prompts], dtype=torch.int64)
        return {name: tensor.cpu()[index] for name, tensor in rows.items()}

    @torch.no_grad()
    def away_from(self, prompt: str) -> Features:
        """One row, as the pipeline reads a negative prompt. ValueError where it takes none."""
        at = replace(self.at, options=replace(self.at.options, negative_prompt=prompt))
        at.check()
        with self.pipeline() as pipe:
            return {name: tensor.cpu() for name, tensor in at.family.null(pipe, at).items()}

    def cut(self, prompts: Sequence[str]) -> dict[str, int]:
        """Of the prompts that are too long: how many tokens the tokeniser that takes fewest leaves out."""
        found = dict[str, int]()
        with self.pipeline(encoders=False) as pipe:
            for name, length in self.at.family.lengths(pipe, self.at).items():
                for prompt in prompts:
                    more = self.at.family.count(pipe, name, prompt) - length
                    if more > 0:
                        found[prompt] = max(found.get(prompt, 0), more)
        return found

    def padded(self, prompts: Sequence[str]) -> int:
        """Tokens that a table of these prompts is padded to."""
        with self.pipeline(encoders=False) as pipe:
            return self.at.family.padded(pipe, [prompt for prompt in prompts if prompt], self.at)

    @contextmanager
    def pipeline(self, *, encoders: bool = True) -> Iterator[Any]:
        """The stock pipeline, without what makes images."""
        at = self.at
        with _quiet():
            import diffusers

            kept = [name for name in at.family.text if encoders or not name.startswith("text_encoder")]
            without = {name: None for name, what in at.index.items() if isinstance(what, list) and name not in kept}
            pipe = getattr(diffusers, at.pipeline).from_pretrained(
                at.folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=at.dtype,
                variant=at.options.variant,
                **without,
                **at.family.words_of_init,
            )
        if encoders:
            pipe.to(self.device)
        yield pipe
        del pipe
        if torch.device(self.device).type == "cuda":
            torch.cuda.empty_cache()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without bars and advice of libraries: neither is ours to show."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    levels = [(each, each.get_verbosity()) for each in (of_diffusers, of_transformers)]
    for each, _ in levels:
        each.set_verbosity_error()
        each.disable_progress_bar()
    try:
        yield
    finally:
        for each, level in levels:
            each.set_verbosity(level)
