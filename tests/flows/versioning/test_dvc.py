"""DVC's locks, when a process that held one was killed."""

import json
import subprocess
import sys
import time

import psutil
import pytest

from flows.versioning import dvc


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rwlock(home, content):
    (home / ".dvc/tmp").mkdir(parents=True)
    (home / ".dvc/tmp/rwlock").write_text(content)
    return home / ".dvc/tmp/rwlock"


def test_a_lock_whose_process_is_no_dvc_is_named(home):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = {"pid": other.pid, "cmd": "dvc repro"}
    table = rwlock(home, json.dumps({"write": {"data/teacher": owner}, "read": {}}))
    try:
        with pytest.raises(ValueError, match=rf"rwlock: names process {other.pid}, which is no dvc on"):
            dvc.check_locks()
    finally:
        other.communicate(b"\n")
    assert table.exists()


def test_a_lock_of_a_process_that_ended_is_taken_away(home):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    while psutil.Process(ended.pid).status() != psutil.STATUS_ZOMBIE:  # as in a container whose init reaps nobody
        time.sleep(0.01)
    owner = {"pid": ended.pid, "cmd": "dvc repro"}
    table = rwlock(home, json.dumps({"write": {"data/teacher": owner}, "read": {"data/dataset": [owner]}}))
    dvc.check_locks()
    assert json.loads(table.read_text()) == {"write": {}, "read": {"data/dataset": []}}
    ended.wait()


def test_a_table_of_locks_that_a_kill_cut_short_is_mended(home):
    table = rwlock(home, '{"write": {')
    dvc.check_locks()
    assert not table.exists()
