"""The tokeniser: words, and letters where they stand in quotes, here and in what was saved."""

import pytest

from stages.models.text import Vocabulary, build_tokenizer


def read(prompt, *others):
    tokenizer = build_tokenizer([prompt, *others])
    ids = Vocabulary(tokenizer)([prompt])[0]
    return [tokenizer.convert_ids_to_tokens(int(each)) for each in ids if int(each) != tokenizer.pad_token_id]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a bold left-slanted 7", ["a", "bold", "left-slanted", "7"]),
        ('the word "cat"', ["the", "word", '"', "c", "a", "t", '"']),
        ('say "a b" and "cd" now', ["say", '"', "a", "b", '"', "and", '"', "c", "d", '"', "now"]),
        ('""', ['"', '"']),
        ("", []),
        ('a 5" pipe', ["a", "5", '"', "pipe"]),
    ],
)
def test_what_stands_in_quotes_is_spelled(prompt, words):
    assert read(prompt) == [*words, "[END]"]


def test_a_saved_tokeniser_reads_alike(tmp_path):
    from transformers import PreTrainedTokenizerFast

    prompts = ['the word "cat"', 'the word "hop"', ""]
    tokenizer = build_tokenizer(prompts)
    tokenizer.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    theirs = again([f"{prompt} [END]".strip() for prompt in prompts], padding="max_length").input_ids
    assert theirs == Vocabulary(tokenizer)(prompts).tolist() == Vocabulary(again)(prompts).tolist()


def test_a_strange_letter_is_named():
    vocabulary = Vocabulary(build_tokenizer(['the word "cat"']))
    with pytest.raises(ValueError, match="does not know the word 'z'"):
        vocabulary(['the word "caz"'])
