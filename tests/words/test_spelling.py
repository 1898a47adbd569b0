"""Words and what is kept of them: every word once, and nothing new in a held-out one but the combination."""

import pytest

from stages.words.spelling import attributes, every, facts_of, hold_out, write

LETTERS = ("bdt", "aeo", "kln")


def test_every_word_stands_once_and_its_prompt_says_it():
    words = every(LETTERS)
    assert len(set(words)) == len(words) == 27
    assert words[0] == "bak"
    assert write("bak") == 'the word "bak"'
    assert facts_of("bak") == {"text": "bak", "letter_1": "b", "letter_2": "a", "letter_3": "k"}
    assert attributes(3) == ("letter_1", "letter_2", "letter_3")


def test_what_is_held_out_comes_from_the_seed_and_leaves_each_letter_at_its_place():
    kept = hold_out(0, LETTERS, 9)
    assert kept == hold_out(0, LETTERS, 9) != hold_out(1, LETTERS, 9)
    assert len(kept) == 9
    seen = set(every(LETTERS)) - kept
    for place, known in enumerate(LETTERS):
        assert {word[place] for word in seen} == set(known)


def test_more_than_half_and_a_letter_that_would_never_be_seen_are_refused():
    with pytest.raises(ValueError, match="14 of 27 words are more than half; lower num_heldout_words"):
        hold_out(0, LETTERS, 14)
    with pytest.raises(ValueError, match=r"no seen word has '.' at place 1; lower num_heldout_words"):
        hold_out(0, ("bdfhklmn", "a"), 1)
