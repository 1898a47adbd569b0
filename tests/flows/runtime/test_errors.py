"""What went wrong, in one message."""

import errno

import pytest

from flows.runtime import errors


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("(sqlite3) database or disk is full\nSQL")]
)
def test_a_full_disk_is_one_message(error):
    [line] = errors.lines(error)
    assert line.startswith("no space left on the disk of")
    assert "run it again" in line


def test_a_prefect_server_that_does_not_answer_is_named(monkeypatch):
    import httpx

    monkeypatch.setenv("PREFECT_API_URL", "http://me:secret@127.0.0.1:1/api")
    outer = RuntimeError("it went wrong")
    outer.__cause__ = httpx.ConnectError("All connection attempts failed")
    [line] = errors.lines(outer)
    assert "Prefect's server at 127.0.0.1:1/api does not answer" in line
    assert "secret" not in line
    assert "a fault of ours" in errors.lines(RuntimeError("x"))[0]
