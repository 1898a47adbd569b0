"""A lease in the store: one holder, and a dead one's is taken over."""

import time

import pytest

from flows import leases
from flows.table import Node
from stages.io import storage
from stages.io.storage import Store
from tests import s3

pytestmark = pytest.mark.filterwarnings("ignore")  # of moto's server, which runs in this process


@pytest.fixture
def store(monkeypatch):
    with s3.server("team") as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        monkeypatch.setattr(leases, "get_run_logger", __import__("logging").getLogger)
        storage._connected.cache_clear()
        yield Store("s3://team/x")
    storage._connected.cache_clear()


NAME = "work/teacher/k.lease.json"


def test_one_holds_it_and_lets_go(store):
    with leases.hold(store, Node("teacher"), "k"):
        with (
            pytest.raises(ValueError, match=r"teacher: process \d+ on .* is making the same from another clone"),
            leases.hold(store, Node("teacher"), "k"),
        ):
            pass
        with leases.hold(store, Node("teacher"), "other parameters"):
            pass
    assert store.read_document(NAME) is None


def test_a_lease_left_by_a_dead_host_is_taken_over(store):
    left = {"host": "gone", "pid": 1, "attempt": "a", "renewed": time.time() - leases.DEAD_S - 1}
    store.write_document(NAME, left)
    with leases.hold(store, Node("teacher"), "k"):
        assert store.read_document(NAME)["host"] != "gone"


def test_a_lease_in_use_is_renewed(store, monkeypatch):
    monkeypatch.setattr(leases, "RENEW_S", 0.1)
    with leases.hold(store, Node("teacher"), "k"):
        first = store.read_document(NAME)["renewed"]
        time.sleep(0.5)
        assert store.read_document(NAME)["renewed"] > first


def test_without_a_store_there_is_no_lease():
    with leases.hold(None, Node("teacher"), "k"):
        pass
