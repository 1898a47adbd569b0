"""Words, the prompts that ask for them, and which of them training never sees.

A letter for each place: with consonants, vowels and consonants "bat" and "nol" are words. A prompt's facts are its
`text`, and each letter by its place, as strings.
"""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from stages.core.rng import uniform_at

MOST = 100_000
"""Words, each of which has a row in a text table."""


def attributes(count: int) -> tuple[str, ...]:
    """What the letters of words of `count` letters are called among the facts."""
    return tuple(f"letter_{place}" for place in range(1, count + 1))


def every(letters: Sequence[str]) -> list[str]:
    """All words, in the order of their letters' places in `letters`."""
    return ["".join(word) for word in product(*letters)]


def write(word: str) -> str:
    """The prompt that asks for it."""
    return f'the word "{word}"'


def facts_of(word: str) -> Mapping[str, str]:
    """What is known of its prompt."""
    return {"text": word, **dict(zip(attributes(len(word)), word, strict=True))}


def hold_out(seed: int, letters: Sequence[str], count: int) -> frozenset[str]:
    """`count` of all words; ValueError where the others would lack a letter at a place."""
    words = every(letters)
    if 2 * count > len(words):
        raise ValueError(f"words: {count} of {len(words)} words are more than half; lower num_heldout_words")
    order = np.argsort(uniform_at(seed, "words/heldout", 0, 1, (len(words),))[0], kind="stable")
    kept = frozenset(words[i] for i in order[:count])
    seen = [word for word in words if word not in kept]
    for place, known in enumerate(letters):
        missing = set(known) - {word[place] for word in seen}
        if missing:
            raise ValueError(
                f"words: with this seed no seen word has {min(missing)!r} at place {place + 1}; lower num_heldout_words"
            )
    return kept
