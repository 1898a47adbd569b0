"""The servers of this machine: their ports, and their starts that fail."""

import os
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from flows.runtime import locks
from flows.runtime.errors import PASSING, Passing
from flows.servers import local, service
from flows.servers.local import Server


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_a_taken_port_is_named():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port {port} is taken.*--prefect-port"):
            local._port("prefect", port)
        assert local._port("prefect", None) != port


def server(home, code):
    """A server called ray that runs `code`, and answers as soon as there is a file `address`."""
    file = home / "address"
    return Server("ray", [sys.executable, "-c", code], lambda: file.read_text() if file.is_file() else None)


def test_a_start_that_fails_shows_its_last_words_and_the_log_stays(home):
    code = "print('first\\n\\n-----\\nthe port\\nis taken'); raise SystemExit(3)"
    with pytest.raises(ValueError, match=r"did not start \(ended with code 3\); its log is \.fewstep/logs/ray\.log"):
        local._start([server(home, code)], leashed=True)
    with pytest.raises(ValueError, match=r"\nray\.log: the port\nray\.log: is taken$"):
        local._start([server(home, code)], leashed=True)
    with pytest.raises(ValueError, match="ended with code 1"):
        local._start([server(home, "raise SystemExit('other')")], leashed=True)
    logs = [home / ".fewstep/logs" / name for name in ("ray.log", "ray.log.1", "ray.log.2")]
    assert [log.read_text().split()[0] for log in logs] == ["other", "first", "first"]
    assert service.running("ray") is None


SLOW = f"""if True:
    import sys, time
    from pathlib import Path
    tries = Path("tries")
    tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
    if tries.read_text() != WANTED:
        sys.exit({PASSING})
    Path("address").write_text("there")
    time.sleep(60)
"""


@pytest.mark.filterwarnings("ignore")  # its Popen goes before it ends, as it does where servers stay
def test_a_server_that_was_too_slow_for_itself_is_started_again_so_many_times(home):
    [made] = local._start([server(home, SLOW.replace("WANTED", "'xxx'"))], leashed=True)
    assert made.address == "there"
    assert service.running("ray") == made
    made.stop()
    assert service.running("ray") is None
    for file in ("tries", "address"):
        (home / file).unlink()
    with pytest.raises(Passing, match=f"ended with code {PASSING}"):
        local._start([server(home, SLOW.replace("WANTED", repr("x" * (local.TRIES + 1))))], leashed=True)
    assert (home / "tries").read_text() == "x" * local.TRIES


def test_a_start_waits_for_others_of_the_same_person(home, monkeypatch):
    monkeypatch.setattr(local, "QUEUE_S", 0.0)

    def start():
        with local._queue():
            return True

    with ThreadPoolExecutor(1) as other:
        assert other.submit(start).result()
        with local._queue(), pytest.raises(Passing, match="servers of other projects were still being started"):
            other.submit(start).result()
    with locks.exclusive(home / f"fewstep-{os.getuid()}.starts", 0):  # over all projects: not in one's folder
        pass


@pytest.mark.parametrize("leashed", [True, False])
def test_a_port_is_waited_for_only_while_a_runs_own_server_leaves_it(monkeypatch, leashed):
    answers = [False, False, False, True]
    monkeypatch.setattr(local, "is_free", lambda _port: answers.pop(0))
    monkeypatch.setattr(local.service, "running", lambda _name: SimpleNamespace(leashed=leashed))
    if leashed:
        answers.append(True)
        assert local._port("prefect", 4200) == 4200
    else:
        with pytest.raises(ValueError, match="port 4200 is taken, prefect cannot listen there"):
            local._port("prefect", 4200)
