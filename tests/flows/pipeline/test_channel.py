"""The channel: words, faults and deaths pass between the driver and whoever asks it."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows.pipeline import channel
from flows.runtime.errors import Passing
from tests.waiting import PATIENCE_S

ROOT = Path(channel.__file__).parents[2]


@contextlib.contextmanager
def listening(folder, answer):
    path = folder / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=channel.accept, args=(server, answer), daemon=True)
        thread.start()
        try:
            yield str(path)
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_work_speaks_to_whoever_asked(tmp_path):
    heard = []

    def answer(caller, request):
        channel.say(f"{request['node']}: 50 %")
        caller.send(news=["teacher", "done", ""])
        return {"made": 1}

    with listening(tmp_path, answer) as path:
        assert channel.ask(path, {"node": "teacher"}, heard.append) == {"made": 1}
    assert heard == [{"say": "teacher: 50 %"}, {"news": ["teacher", "done", ""]}]


@pytest.mark.parametrize(
    ("fault", "passing"), [(ValueError("it is so; do that"), False), (Passing("a worker was killed"), True)]
)
def test_a_fault_reaches_whoever_asked(tmp_path, fault, passing):
    def answer(_caller, _request):
        raise fault

    with listening(tmp_path, answer) as path:
        answered = channel.ask(path, {}, pytest.fail)
    assert answered["errors"] == [str(fault)]
    assert answered["passing"] is passing
    assert "Traceback" in answered["trace"]


def test_where_nobody_listens_there_is_no_answer(tmp_path):
    assert channel.ask(str(tmp_path / "socket"), {}, pytest.fail) is None
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    assert channel.ask(str(tmp_path / "dead"), {}, pytest.fail) is None


def test_a_driver_that_dies_is_a_failure_that_may_pass(tmp_path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def hang_up():
            with server.accept()[0] as connection:
                connection.recv(1024)

        threading.Thread(target=hang_up, daemon=True).start()
        with pytest.raises(Passing, match="the driver ended before its work was done"):
            channel.ask(str(path), {}, pytest.fail)


@pytest.mark.parametrize("interrupt", [False, True], ids=["killed", "interrupted"])
def test_work_learns_that_nobody_waits_for_it(tmp_path, interrupt):
    begun, seen = threading.Event(), threading.Event()

    def answer(_caller, _request):
        begun.set()
        while not channel.abandoned():
            time.sleep(0.01)
        seen.set()
        return {}

    # What a shell runs in the background ignores this signal, and so do the tests' children there.
    heeds = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"import sys; {heeds}; from flows.pipeline import channel; channel.ask(sys.argv[1], {{}}, print)"
    with listening(tmp_path, answer) as path:
        asker = subprocess.Popen([sys.executable, "-c", code, path], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        assert begun.wait(timeout=PATIENCE_S)
        assert not seen.is_set()
        asker.send_signal(subprocess.signal.SIGINT if interrupt else subprocess.signal.SIGKILL)
        assert seen.wait(timeout=PATIENCE_S)
        _, said = asker.communicate(timeout=PATIENCE_S)
    assert ("KeyboardInterrupt" in said) is interrupt


def test_the_fingerprint_tells_folder_code_and_environment(tmp_path, monkeypatch):
    for package in ("flows", "stages"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "module.py").write_text("x = 1\n")
    monkeypatch.setattr(channel.source, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    first = channel.fingerprint()
    assert channel.fingerprint() == first
    (tmp_path / "stages" / "module.py").write_text("x = 2\n")
    edited = channel.fingerprint()
    monkeypatch.setenv("FEWSTEP_ENVIRONMENT", "another")
    told = channel.fingerprint()
    os.chdir(tmp_path / "flows")
    assert len({first, edited, told, channel.fingerprint()}) == 4
