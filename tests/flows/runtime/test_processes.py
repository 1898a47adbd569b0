"""Questions to tools, and processes of ours: started and ended in one way."""

import sys

import pytest

from flows.runtime import processes


def say(code, out="", err=""):
    """A tool that says these and ends with `code`."""
    words = f"import sys; print({out!r}); print({err!r}, file=sys.stderr); sys.exit({code})"
    return sys.executable, "-c", words


def test_an_answer_has_the_code_and_both_outputs():
    assert processes.ask(*say(0, "yes", "mind you")) == processes.Answer(0, "yes", "mind you")


def test_no_is_an_answer_only_where_the_asker_says_so():
    assert processes.ask(*say(1), codes=(0, 1)).code == 1
    with pytest.raises(processes.NoAnswer, match=r"fatal: not a repository \(exit code 128\)") as raised:
        processes.ask(*say(128, "", "warning: x\nfatal: not a repository"), codes=(0, 1))
    assert raised.value.code == 128


def test_a_tool_that_is_not_there_or_says_nothing_in_time_is_no_answer():
    with pytest.raises(processes.NoAnswer, match=r"cannot be started \(no-such-tool: No such file") as raised:
        processes.ask("no-such-tool", "status")
    assert raised.value.code is None
    with pytest.raises(processes.NoAnswer, match=r"no answer within 0\.2 s"):
        processes.ask("sleep", "60", limit_s=0.2)


def test_it_is_asked_where_and_with_what_it_is_told_to(tmp_path):
    code = "import os; print(os.getcwd(), os.environ['WORD'])"
    answer = processes.ask(sys.executable, "-c", code, where=tmp_path, environment={"WORD": "given"})
    assert answer.out == f"{tmp_path} given"
