"""Questions to tools, and processes of ours: started and ended in one way."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows.runtime import processes
from tests.waiting import PATIENCE_S, wait_for

ROOT = Path(__file__).parents[3]


def say(code, out="", err=""):
    """A tool that says these and ends with `code`."""
    words = f"import sys; print({out!r}); print({err!r}, file=sys.stderr); sys.exit({code})"
    return sys.executable, "-c", words


def test_an_answer_has_the_code_and_what_was_said():
    assert processes.ask(*say(0, "yes", "mind you")) == processes.Answer(0, "yes")


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


PARENT = """if True:
    import signal, subprocess, sys, time
    if sys.argv[1] == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True)"
    child = subprocess.Popen([sys.executable, "-c", code + "; time.sleep(60)"], start_new_session=True, stdout=-1)
    child.stdout.readline()
    print(child.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["polite", "stubborn"])
def test_a_process_is_ended_with_all_that_it_started_whether_it_likes_it_or_not(kind, monkeypatch):
    monkeypatch.setattr(processes, "_AFTER_S", 0.2)
    process = processes.launch([sys.executable, "-c", PARENT, kind])
    with process:
        grandchild = int(process.stdout.readline())
        processes.end(process, patience_s=0.2)
    assert process.returncode == (-signal.SIGTERM if kind == "polite" else -signal.SIGKILL)
    assert not processes.lives(grandchild)


BUSY = """if True:
    import signal, subprocess
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["bash", "-c", "sleep 1; touch done"])
    print(child.pid, flush=True)
    child.wait()
    signal.pause()
"""


def test_a_process_has_its_time_as_long_as_something_of_its_own_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_AFTER_S", 0.2)
    with processes.launch([sys.executable, "-c", BUSY], where=tmp_path) as process:
        process.stdout.readline()
        processes.end(process, patience_s=PATIENCE_S, idle_s=0.2)
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "done").is_file()


def test_a_process_that_ended_and_one_that_never_was_are_left_alone():
    process = processes.launch([sys.executable, "-c", "raise SystemExit(3)"])
    process.communicate()
    processes.end(process)
    assert process.returncode == 3
    with pytest.raises(FileNotFoundError, match="no-such-tool"):
        processes.launch(["no-such-tool"])


def test_the_words_of_a_process_that_has_ended_meanwhile_are_none():
    with subprocess.Popen(["sleep", "60"]) as process:
        seen = psutil.Process(process.pid)
        wait_for(lambda: processes.words(seen) == ["sleep", "60"])  # until then it is a copy of this one
        process.kill()
    assert processes.words(seen) == []


def test_what_it_says_goes_to_its_log_and_it_sees_the_environment_that_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "ours")
    log, code = tmp_path / "logs" / "log", "import os, sys; print(os.environ.get('SECRET'), os.environ['WORD'])"
    code += "; print('oh', file=sys.stderr); print(repr(sys.stdin.read()), os.getsid(0) == os.getpid())"
    given = {"environment": {"SECRET": None, "WORD": "given", "PYTHONUNBUFFERED": "1"}, "own_session": True}
    assert processes.launch([sys.executable, "-c", code], log=log, **given).wait() == 0
    assert log.read_text() == "None given\noh\n'' True\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
@pytest.mark.parametrize("leashed", [True, False])
def test_on_a_leash_it_ends_with_whom_started_it_however_that_happens(leashed):
    code = f"""if True:
        import os, signal
        from flows.runtime import processes
        child = processes.launch(["sleep", "60"], leashed={leashed}, own_session=True)
        print(child.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT) as starter:
        child = psutil.Process(int(starter.stdout.readline()))
    if leashed:
        assert not processes._wait([child], PATIENCE_S)
    else:
        assert processes.lives(child.pid)
        child.kill()


def test_on_a_leash_a_program_finds_signals_as_it_expects_them():
    answer = processes.ask("grep", "SigIgn", "/proc/self/status")
    assert int(answer.out.split()[-1], 16) & (1 << signal.SIGPIPE - 1) == 0


def test_the_ports_that_a_process_and_its_children_listen_at():
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    shell = ["sh", "-c", f'"{sys.executable}" -c "{code}"; true']
    with subprocess.Popen(shell, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        port = int(process.stdout.readline())
        assert processes.ports(process.pid) == {port}
        process.communicate("\n")
