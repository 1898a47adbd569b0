"""What is written down of servers, in a folder that may be copied or moved."""

import os
import shutil

import pytest

from flows.runtime import processes
from flows.servers import service
from flows.servers.service import Service


@pytest.fixture
def server(tmp_path, monkeypatch):
    """One of the project in `first`, which is the working folder."""
    (tmp_path / "first").mkdir()
    monkeypatch.chdir(tmp_path / "first")
    process = processes.launch(["sleep", "60"], log=tmp_path / "log")
    made = Service.of("ray", process.pid, "127.0.0.1:1", leashed=False)
    made.write()
    yield made
    processes.end(process)


def test_it_is_found_until_it_is_stopped(server):
    assert service.running("ray") == server
    server.stop()
    assert not server.lives()
    assert service.read("ray") is None


@pytest.mark.parametrize(("name", "is_short"), [("worker", True), ("driver", False), ("ray", False)])
def test_a_worker_that_runs_nothing_any_more_is_not_given_all_its_time(name, is_short, server, monkeypatch):
    """A driver's work lies in its own process: what it started says nothing of whether it is idle."""
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(processes, "end", lambda _process, *given: asked.append(given))
        Service.of(name, server.pid, "127.0.0.1:1", leashed=False).stop()
    [(patience_s, idle_s)] = asked
    assert (idle_s < patience_s) == is_short


def test_a_copied_folder_has_none_of_the_originals(server, tmp_path, monkeypatch):
    shutil.copytree("../first", "../copy")
    monkeypatch.chdir("../copy")
    assert service.read("ray") is None
    assert service.running("ray") is None
    assert service.left("ray") is None
    assert server.lives()


def test_a_moved_folders_can_be_stopped_but_not_used(server, monkeypatch):
    os.rename("../first", "../moved")
    monkeypatch.chdir("../moved")
    assert service.running("ray") is None
    assert service.left("ray") == server


def test_one_that_another_has_replaced_is_not_forgotten_for_it(server):
    newer = Service.of("ray", os.getpid(), "127.0.0.1:2", leashed=False)
    newer.write()
    server.forget()
    assert service.running("ray") == newer


def test_a_later_process_with_its_number_is_another(server):
    Service("ray", server.pid, server.born - 60, server.address, server.folder, server.leashed).write()
    assert service.running("ray") is None
