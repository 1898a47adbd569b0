"""A lease in the store: one holder, and a dead one's is taken over."""

import os
import subprocess
import time

import psutil
import pytest

from flows.runtime import leases
from flows.runtime.errors import Passing
from stages.io import storage
from stages.io.storage import Store
from tests import s3
from tests.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.filterwarnings("ignore")  # of moto's server, which runs in this process


@pytest.fixture
def store(monkeypatch, tmp_path):
    with s3.server("team") as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        storage._connected.cache_clear()
        yield Store(f"s3://team/{tmp_path.name}")
    storage._connected.cache_clear()


NAME = "work/teacher/k.lease.json"


def held_by(process, **changes):
    """A fresh lease of `process`, as it would write it."""
    facts = {"host": "here", "pid": process.pid, "born": process.create_time(), "table": leases._process_table()}
    return facts | {"attempt": "a", "renewed": time.time()} | changes


@pytest.fixture
def other():
    """A process of this machine that lives."""
    with subprocess.Popen(["sleep", str(PATIENCE_S)]) as process:
        yield psutil.Process(process.pid)
        process.kill()


def test_who_holds_it_keeps_others_out(store, other):
    store.write_document(NAME, held_by(other))
    with (
        pytest.raises(Passing, match=rf"teacher: process {other.pid} on here is making the same from another clone"),
        leases.hold(store, "teacher", "k"),
    ):
        pass
    assert store.read_document(NAME)["pid"] == other.pid


def test_a_lease_left_by_a_dead_process_of_this_machine_is_taken_over_at_once(store, other):
    left = held_by(other)
    for facts in (left | {"born": left["born"] - 60}, left):  # another process has its pid now; nobody has
        if facts == left:
            other.kill()
            other.wait(PATIENCE_S)
        store.write_document(NAME, facts)
        with leases.hold(store, "teacher", "k"):
            assert store.read_document(NAME)["pid"] == os.getpid()


def test_a_process_of_another_machine_is_believed(store, other):
    other.kill()
    store.write_document(NAME, held_by(other, table="another boot"))
    with pytest.raises(Passing, match="is making the same"), leases.hold(store, "teacher", "k"):
        pass


def test_a_store_that_is_gone_at_the_end_does_not_hide_what_went_wrong(store, monkeypatch):
    def refuse(_name):
        raise storage.StorageError("no good answer")

    def fail():
        monkeypatch.setattr(store, "remove", refuse)
        raise KeyError("the work")

    with pytest.raises(KeyError, match="the work"), leases.hold(store, "teacher", "k"):
        fail()


def test_one_holds_it_and_lets_go(store):
    with leases.hold(store, "teacher", "k"), leases.hold(store, "teacher", "other parameters"):
        pass
    assert store.read_document(NAME) is None


def test_a_lease_left_by_a_dead_host_is_taken_over(store):
    left = {"host": "gone", "pid": 1, "attempt": "a", "renewed": time.time() - leases.DEAD_S - 1}
    store.write_document(NAME, left)
    with leases.hold(store, "teacher", "k"):
        assert store.read_document(NAME)["host"] != "gone"


def test_a_lease_in_use_is_renewed(store, monkeypatch):
    monkeypatch.setattr(leases, "RENEW_S", 0.1)
    with leases.hold(store, "teacher", "k"):
        first = store.read_document(NAME)["renewed"]
        wait_for(lambda: store.read_document(NAME)["renewed"] > first)


def test_without_a_store_there_is_no_lease():
    with leases.hold(None, "teacher", "k"):
        pass
