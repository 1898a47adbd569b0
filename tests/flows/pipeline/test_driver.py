"""The driver: who may ask it, whom it outlives, and what it answers where it cannot begin."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flows.pipeline import channel, client, driver
from flows.runtime import environment
from tests.waiting import PATIENCE_S

ROOT = Path(client.__file__).parents[2]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


RUNS = {"pipeline": None, "run": None, "parent": None}


class Caller:
    def __init__(self):
        self.gone = threading.Event()


def ready(leash=None):
    made = driver.Driver(leash)
    made.kept = driver._kept(driver._params())
    made._ready.set()
    return made


def asked(made, **more):
    return made.answer(Caller(), {"do": "stage", "node": "teacher", "version": made.version, "runs": RUNS, **more})


@pytest.mark.parametrize("edit", [("", ""), ("device: cpu", "device: cuda"), ("stall_s: 900", "stall_s: 9")])
def test_work_is_done_for_whoever_has_the_same_code_and_ray(home, monkeypatch, edit):
    """What tasks take is read for each that asks."""
    monkeypatch.setattr(driver, "_dead_server", lambda: None)
    made = ready()
    text = (ROOT / "params.yaml").read_text()
    (home / "params.yaml").write_text(text.replace(*edit))
    assert edit[0] in text
    monkeypatch.setattr(made, "_perform", lambda _caller, request: {"node": request["node"]})
    assert asked(made) == {"node": "teacher"}
    assert not made.stop.is_set()


@pytest.mark.parametrize("how", ["code", "ray", "store", "server"])
def test_a_stale_driver_ends_for_another_to_take_its_place(home, monkeypatch, how):
    monkeypatch.setattr(driver, "_dead_server", lambda: "Ray died" if how == "server" else None)
    made = ready()
    edits = {"ray": ("num_cpus: null", "num_cpus: 1"), "store": ("  root: null", "  root: s3://a/b")}
    if how in edits:
        text = (ROOT / "params.yaml").read_text()
        assert edits[how][0] in text
        (home / "params.yaml").write_text(text.replace(*edits[how]))
    answer = asked(made, **({"version": "another"} if how == "code" else {}))
    assert answer["stale"]
    assert answer["stays"] is True
    assert made.stop.is_set()


def test_a_stale_driver_that_works_goes_on_working(home, monkeypatch):
    monkeypatch.setattr(driver, "_dead_server", lambda: None)
    made, begun, end = ready(), threading.Event(), threading.Event()

    def perform(_caller, _request):
        begun.set()
        end.wait(timeout=PATIENCE_S)
        return {}

    monkeypatch.setattr(made, "_perform", perform)
    thread = threading.Thread(target=asked, args=(made,))
    thread.start()
    begun.wait(timeout=PATIENCE_S)
    answer = asked(made, version="another")
    assert answer["stale"]
    assert answer["stays"] is False
    assert not made.stop.is_set()
    end.set()
    thread.join()


def test_whoever_waits_for_a_driver_gets_its_fault(home):
    made = driver.Driver(None)
    made.fail(ValueError("no room for Ray; make some"))
    with pytest.raises(ValueError, match="no room for Ray"):
        asked(made)


def test_nothing_is_begun_for_whoever_is_gone(home, monkeypatch):
    made = driver.Driver(None)
    monkeypatch.setattr(made, "_perform", lambda *_: pytest.fail("nobody waits for it"))
    caller = Caller()
    caller.gone.set()
    answer = made.answer(caller, {"do": "stage", "node": "teacher", "version": made.version})
    assert "nobody waits" in answer["errors"][0]


def test_it_ends_with_the_process_that_it_was_started_for(home):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    made = ready(other.pid)
    watching = threading.Thread(target=made.watch)
    watching.start()
    assert not made.stop.is_set()
    other.communicate(b"\n")
    watching.join(timeout=PATIENCE_S)
    assert made.stop.is_set()


def test_a_driver_that_cannot_start_says_why(home, monkeypatch):
    for package in ("flows", "stages"):
        (home / package).symlink_to(ROOT / package)
    with pytest.raises(ValueError, match=r"(?s)driver: did not start .*no dvc.yaml and params/ here"):
        client.start(None)


def test_a_person_without_a_driver_asks_in_vain(home, monkeypatch):
    monkeypatch.delenv(channel.SOCKET, raising=False)
    monkeypatch.setattr(client, "start", lambda _leash: str(home / "nobody"))
    (home / environment.HOME).mkdir()
    with pytest.raises(Exception, match="ended as it was asked"):
        client.ask({"do": "stage", "node": "teacher"}, print)


def test_who_calls_another_checkouts_code_is_told_so(home, monkeypatch):
    monkeypatch.delenv(channel.SOCKET, raising=False)
    monkeypatch.setattr(client, "start", lambda _leash: str(home / "nobody"))
    monkeypatch.setattr(channel, "ask", lambda *_: {"stale": "it began with other code", "stays": False})
    (home / environment.HOME).mkdir()
    (home / "flows").mkdir()
    with pytest.raises(ValueError, match=f"code of its own, .* was called is {ROOT}'s; say `make install` here"):
        client.ask({"do": "stage", "node": "teacher"}, print)
