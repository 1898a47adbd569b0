"""Prompts and facts say the same, both ways."""

import pytest

from stages.shapes.grammar import TASKS, every, facts_of, read, targets, write


def test_every_prompt_is_read_back_as_the_facts_that_wrote_it():
    asked = every(6, 8, 4)
    prompts = [write(facts) for facts in asked]
    assert [read(prompt) for prompt in prompts] == asked
    assert len(set(prompts)) == len(prompts) > 10_000
    assert {facts["task"] for facts in asked} == set(TASKS)


@pytest.mark.parametrize(
    ("prompt", "task"),
    [
        ("a circle", "single_object"),
        ("an orange ring", "colors"),
        ("four blue crosses", "counting"),
        ("a circle and a red square", "two_object"),
        ("a green circle and a red square", "color_attr"),
        ("a red circle left of a blue circle", "position"),
    ],
)
def test_a_prompt_tells_its_task(prompt, task):
    assert read(prompt)["task"] == task
    assert write(read(prompt)) == prompt


def test_what_names_nothing_to_tell_apart_is_not_asked_for():
    prompts = {write(facts) for facts in every(4, 5, 4)}
    assert "a red circle left of a blue circle" in prompts
    assert not prompts & {"a circle left of a circle", "a red circle and a red square", "a circle and a red circle"}


def test_targets_are_the_facts_as_numbers():
    asked = [facts_of([("cross", None)], 3), facts_of([("circle", "blue"), ("square", None)], relation="above")]
    assert targets(asked).tolist() == [[3, -1, 3, -1, -1, -1], [0, 2, 1, 1, -1, 2]]


@pytest.mark.parametrize(
    "prompt",
    ["", "a", "circle", "a red", "five circles", "two circle", "a mauve circle", "a red circle and two squares",
     "a  circle", "a red circle by a blue square", "a red blue circle"],
)  # fmt: skip
def test_another_prompt_is_refused(prompt):
    with pytest.raises(ValueError, match="one that is"):
        read(prompt)
