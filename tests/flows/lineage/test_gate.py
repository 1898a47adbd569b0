"""A gate that cannot check refuses."""

import pytest

from flows.lineage import promotion
from flows.lineage.verify import Entry

CLEAN = {"git": {"commit": "c" * 40, "dirty": False}}


@pytest.mark.parametrize(
    ("git", "words"),
    [
        ({"commit": "c" * 40, "dirty": False}, None),
        ({"commit": "c" * 40, "dirty": True}, "teacher: was made with uncommitted changes"),
        (
            {"commit": None, "dirty": None, "unknown": "git: not there"},
            "teacher: nobody knows its commit: git: not there",
        ),
        ({"commit": "", "dirty": False}, "teacher: nobody knows its commit: it was made outside git"),
    ],
)
def test_clean_git_holds_only_where_git_has_said_so(git, words):
    found = promotion._clean_git([Entry(0, "distill@t", CLEAN, ()), Entry(1, "teacher", {"git": git}, ())])
    assert (found.holds, found.words) == (words is None, words or "committed code made all of it")


def test_clean_git_does_not_hold_where_a_record_is_missing():
    assert promotion._clean_git([Entry(0, "distill@t", CLEAN, ()), Entry(1, "teacher", None, ("no record",))]) == (
        promotion.Finding("clean git", "teacher: no record", holds=False)
    )
    assert not promotion._clean_git([]).holds
