"""What went wrong, in one message, and whether it may pass by itself: by its type, whatever its words."""

import errno
import sqlite3

import httpx
import pytest
from prefect.exceptions import PrefectHTTPStatusError

from flows.runtime import errors
from flows.runtime.errors import Passing
from stages.io.storage import StorageError, TransientStorageError


def caused(error, cause):
    error.__cause__ = cause
    return error


def full_database():
    """What sqlite raises where it can write no more, as Prefect and MLflow pass it on."""
    with sqlite3.connect(":memory:") as database:
        database.execute("PRAGMA max_page_count = 1")
        with pytest.raises(sqlite3.OperationalError) as refusal:
            database.execute("CREATE TABLE t (x)")
    return caused(RuntimeError("Background on this error at: ..."), refusal.value)


def refused(status):
    """What Prefect's client raises for an answer with this HTTP status."""
    reply = httpx.Response(status, request=httpx.Request("POST", "http://127.0.0.1:1/api/v2/x"))
    with pytest.raises(httpx.HTTPStatusError) as refusal:
        reply.raise_for_status()
    return PrefectHTTPStatusError.from_httpx_error(refusal.value)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), full_database()])
def test_a_full_disk_is_one_message(error):
    [line] = errors.lines(error)
    assert line.startswith("no space left on the disk of")
    assert "run it again" in line


def test_a_prefect_server_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://me:secret@127.0.0.1:1/api")
    [line] = errors.lines(caused(RuntimeError("it went wrong"), httpx.ConnectError("All connection attempts failed")))
    assert "Prefect's server at 127.0.0.1:1/api does not answer" in line
    assert "secret" not in line
    assert "a fault of ours" in errors.lines(RuntimeError("x"))[0]
    assert errors.lines(Passing("a worker was killed")) == ["a worker was killed"]
    [line] = errors.lines(caused(RuntimeError("no slot\na traceback"), refused(503)))
    assert "does not answer (Server error '503 Service Unavailable'" in line
    assert "traceback" not in line


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (Passing("the node left"), True),
        (TransientStorageError("no answer"), True),
        (caused(RuntimeError("x"), httpx.ReadTimeout("")), True),
        (refused(503), True),
        (caused(RuntimeError("no slot"), refused(503)), True),
        (refused(404), False),
        (StorageError("the credentials have expired; renew them and run it again"), False),
        (ValueError("lr: too large; lower it and run it again"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (full_database(), False),
        (caused(Passing("the worker died"), OSError(errno.ENOSPC, "")), False),
        (RuntimeError("the database or disk is full"), False),
    ],
)
def test_what_may_pass_is_a_type(error, passes):
    assert errors.passes(error) is passes


@pytest.mark.parametrize("passing", [True, False])
def test_what_another_process_told_keeps_its_kind(passing):
    assert errors.passes(errors.told("it is so", passing=passing)) is passing
