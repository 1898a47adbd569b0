"""Pictures of short words as a data set; see `stages/words`."""

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from stages.core.config import config
from stages.core.prompts import Prompt
from stages.core.ranges import NonNegativeCount
from stages.core.rng import uniform_at
from stages.io.dataset import Dataset
from stages.io.drawn import TESTING, TRAINING, Drawn, Images, drawn
from stages.words.pictures import Pictures, draw
from stages.words.spelling import MOST, every, facts_of, hold_out, write

Letters = Annotated[str, Field(pattern="^[a-z]+$")]


@config
class Words:
    """Pictures of words, each with a letter of one list at each place."""

    name: Literal["words"]
    pictures: Pictures
    letters: Annotated[tuple[Letters, ...], Field(min_length=1, max_length=8)]
    """For each place those that may stand there."""
    num_train: Drawn
    num_test: Drawn
    num_heldout_words: NonNegativeCount
    """Words that training never shows, though it shows each of their letters at its place."""

    def __post_init__(self) -> None:
        for known in self.letters:
            if len(set(known)) < len(known):
                raise ValueError(f"letters={list(self.letters)}: in {known!r} one stands twice")
        if (count := math.prod(map(len, self.letters))) > MOST:
            raise ValueError(f"letters={list(self.letters)}: they make {count} words, and {MOST} are the most")


def texts(cfg: Words, seed: int) -> tuple[list[str], list[str]]:
    """The prompts that training sees, and those that it does not. ValueError where too many are held out."""
    kept = hold_out(seed, cfg.letters, cfg.num_heldout_words)
    return [write(word) for word in every(cfg.letters) if word not in kept], [write(word) for word in kept]


def dataset(cfg: Words, seed: int) -> Dataset:
    """Pictures [N, 3, H, W], every word alike."""
    words, kept = every(cfg.letters), hold_out(seed, cfg.letters, cfg.num_heldout_words)
    seen = [place for place, word in enumerate(words) if word not in kept]

    def pictures(places: list[int], count: int, name: str) -> Images:
        which = (uniform_at(seed, f"{name}/prompt", 0, count, (1,))[:, 0] * len(places)).astype(np.int64)
        chosen = np.array(places)[which]
        return Images(
            chosen,
            lambda rows: draw(cfg.pictures, [words[at] for at in chosen[rows]], seed=seed, name=name, start=rows.start),
        )

    return drawn(
        [Prompt(write(word), facts_of(word)) for word in words],
        [word in kept for word in words],
        pictures(seen, cfg.num_train, TRAINING),
        pictures(list(range(len(words))), cfg.num_test, TESTING),
        {"kind": "words", "letters": list(cfg.letters)},
    )
