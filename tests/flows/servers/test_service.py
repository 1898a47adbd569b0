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
