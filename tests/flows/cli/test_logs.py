"""`fewstep logs`: whose lines are shown, and what they are called."""

import argparse

import pytest

from flows.cli.commands import logs

LINES = [
    {"stage": "teacher", "arm": None},
    {"stage": "teacher", "arm": "r2"},
    {"stage": "distill", "arm": "a"},
    {"stage": "distill", "arm": "a-r2"},
    {"run": "p"},
]


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (None, ["teacher", "teacher-replicates@r2", "distill@a", "distill@a-r2", "p"]),
        ("teacher", ["teacher", "teacher-replicates@r2"]),
        ("teacher-replicates@r2", ["teacher-replicates@r2"]),
        ("distill", ["distill@a", "distill@a-r2"]),
        ("distill@a", ["distill@a"]),
        ("distill@a-r2", ["distill@a-r2"]),
    ],
)
def test_lines_are_found_and_named_by_their_node(asked, shown):
    if asked:
        logs._check(asked)
    parsed = argparse.Namespace(stage=asked, level="info")
    lines = [{"time": 0.0, "level": "info", "message": "m", **line} for line in LINES]
    assert [logs.words(line).split()[2] for line in lines if logs._wanted(line, parsed)] == shown


def test_a_name_that_is_no_stages_is_refused():
    with pytest.raises(ValueError, match="no stage is called 'teachers'"):
        logs._check("teachers")
