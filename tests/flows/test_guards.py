"""What stands between two runs, and between a run and wrong inputs."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import namedtuple

import psutil
import pytest

from flows.cli.main import main
from flows.pipeline import execution
from flows.pipeline.scheduler import Slots
from flows.project import aside, graph
from flows.project.nodes import STAGES, Node
from flows.project.resources import Compute
from flows.runtime import errors, locks
from flows.servers import local
from flows.versioning import dvc
from flows.workers.connection import connect
from stages.io import artefacts

COMPUTE = {
    "backend": "local", "address": None, "num_cpus": 2, "device": "cuda",
    "cpus": {"default": 1, "teacher": 2}, "gpus": {"default": 0.0, "rl": 1.0}, "stall_s": 9.0, "place_s": 9.0,
    "workers": {"default": 1}, "nodes": None, "resources": {},
    "rewards": {"workers": 0, "cpus": 1, "gpus": 0.0, "resources": {}},
}  # fmt: skip


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(folder, parameters, seed=0):
    build = folder.parent / "build"
    build.mkdir(parents=True)
    (build / "payload").write_text("p")
    artefacts.commit(build, folder, stage="teacher", arm=None, seed=seed, parameters=parameters)


def test_a_node_runs_once_at_a_time(home):
    code = """if True:
        import time
        from flows.runtime import locks
        with locks.hold("teacher"):
            print("held", flush=True)
            time.sleep(60)
    """
    other = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": str(execution.__file__.rsplit("/", 3)[0])},
    )
    try:
        assert other.stdout.readline()
        with (
            pytest.raises(ValueError, match=rf"teacher: process {other.pid} on .* is running it"),
            locks.hold("teacher"),
        ):
            pass
        assert str(other.pid) in locks.held("teacher")
        with locks.hold("distill@a"):
            pass
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    with locks.hold("teacher"):  # kill -9 lets go of it
        pass
    assert locks.held("teacher") is None


def test_arms_that_are_no_longer_named_leave_the_room(home):
    for name in ("kept", "gone"):
        (home / "data/distill" / name).mkdir(parents=True)
    (home / "data/distill/.gitkeep").touch()
    aside.set_aside({"distill": {"arms": {"kept": {}}}, "rl": {"arms": {}}})
    assert sorted(p.name for p in (home / "data/distill").iterdir()) == [".gitkeep", "kept"]
    assert (home / ".fewstep/aside/distill/gone").is_dir()
    assert (home / "data/rl").is_dir()


def test_an_input_made_by_other_parameters_is_refused(home):
    made(home / "data/teacher", {"lr": 0.1, "net": {"width": 8}})
    content = {stage: {} for stage in STAGES} | {"seed": 0, "teacher": {"lr": 0.1, "net": {"width": 8}}}
    execution._check_input("data/teacher", content)
    content["teacher"] = {"lr": 0.1, "net": {"width": 16}}
    with pytest.raises(
        ValueError, match=r"data/teacher: made by other parameters: net\.width was 8, params\.yaml says 16"
    ):
        execution._check_input("data/teacher", content)


def test_an_input_made_by_another_seed_is_refused(home):
    made(home / "data/teacher", {}, seed=1)
    with pytest.raises(ValueError, match="seed was 1"):
        execution._check_input("data/teacher", {stage: {} for stage in STAGES} | {"seed": 0})


def test_a_full_disk_is_found_before_the_work(home, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 10, 3 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match="only 3 MiB are free"):
        execution._check_disk()


def test_a_taken_port_is_named(home):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port {port} is taken.*--prefect-port"):
            local._port("prefect", port)
        assert local._port("prefect", None) != port


def test_no_ray_at_an_address_is_said_at_once(home):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(ValueError, match=rf"127\.0\.0\.1:{port}: no Ray answers there"):
        connect(f"127.0.0.1:{port}")
    assert time.monotonic() - began < 30


def test_resources_decide_the_device():
    compute = Compute.of({"compute": COMPUTE})
    assert (compute.device_of("rl"), compute.device_of("teacher")) == ("cuda", "cpu")
    assert (compute.cpus_of("teacher"), compute.cpus_of("rl")) == (2, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"backend": "address"}, "compute.address: missing"), ({"cpus": {}}, "cpus.default"), ({"gpu": 1}, "unknown")],
)
def test_compute_is_checked(change, message):
    with pytest.raises(ValueError, match=message):
        Compute.of({"compute": COMPUTE | change})


ARMS = {stage: {} for stage in STAGES} | {
    "distill": {"arms": {"a": {"teacher": "data/teacher", "init": "data/teacher", "data": "data/reflow"}}},
    "rl": {"arms": {"r": {"init": "data/teacher"}}},
}


def test_the_longest_chain_goes_first_even_if_it_asks_last():
    slots, order = Slots(1, ARMS), []

    def make(node):
        with slots.taken(node):
            order.append(node.name)

    for name in ("dataset", "verifier", "teacher"):
        slots.over(Node(name), made=True)
    first = threading.Thread(target=make, args=(Node("rl", "r"),))
    first.start()
    first.join(timeout=0.2)
    assert order == [], "trajectories could start now, and more waits for it"
    make(Node("trajectories"))
    first.join()
    assert order == ["trajectories", "rl@r"]


def test_a_node_that_was_given_up_holds_nobody():
    slots = Slots(1, ARMS)
    for name in ("dataset", "verifier", "teacher"):
        slots.over(Node(name), made=True)
    slots.over(Node("trajectories"), made=False)
    with slots.taken(Node("rl", "r")):
        pass


@pytest.mark.parametrize(
    "command",
    ["run", "stage", "compose", "status", "sample", "lineage", "rerun", "promote", "logs", "up", "down", "doctor"],
)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"fewstep {command}" in capsys.readouterr().out


def test_the_command_line_is_quick_to_start():
    code = """if True:
        import sys
        from flows.__main__ import main
        try:
            main(["stage", "--help"])
        except SystemExit:
            print(sorted({"torch", "ray", "prefect", "mlflow", "dvc", "hydra"} & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def rwlock(home, content):
    (home / ".dvc/tmp").mkdir(parents=True)
    (home / ".dvc/tmp/rwlock").write_text(content)
    return home / ".dvc/tmp/rwlock"


def test_a_lock_whose_process_is_no_dvc_is_named(home):
    owner = {"pid": os.getpid(), "cmd": "dvc repro"}
    table = rwlock(home, json.dumps({"write": {"data/teacher": owner}, "read": {}}))
    with pytest.raises(ValueError, match=rf"rwlock: names process {os.getpid()}, which is no dvc on"):
        dvc.check_locks()
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


def test_what_is_needed_ends_at_the_target():
    assert {node.name for node in graph.needed(["trajectories"], ARMS)} == {"dataset", "teacher", "trajectories"}
    assert len(graph.needed([], ARMS)) == 8
    with pytest.raises(ValueError, match="no stage is called 'teachers'"):
        graph.needed(["teachers"], ARMS)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("(sqlite3) database or disk is full\nSQL")]
)
def test_a_full_disk_is_one_message(error):
    [line] = errors.lines(error)
    assert line.startswith("no space left on the disk of")
    assert "run it again" in line


def test_a_prefect_server_that_does_not_answer_is_named(monkeypatch):
    import httpx

    monkeypatch.setenv("PREFECT_API_URL", "http://me:secret@127.0.0.1:1/api")
    outer = RuntimeError("it went wrong")
    outer.__cause__ = httpx.ConnectError("All connection attempts failed")
    [line] = errors.lines(outer)
    assert "Prefect's server at 127.0.0.1:1/api does not answer" in line
    assert "secret" not in line
    assert "a fault of ours" in errors.lines(RuntimeError("x"))[0]


def test_outside_a_project_the_message_says_so(home, capsys):
    assert main(["status"]) == 1
    assert "run this inside the project's folder" in capsys.readouterr().err


def test_a_second_run_leaves_the_parameters_of_the_first(home, capsys):
    (home / "dvc.yaml").touch()
    (home / "params").mkdir()
    (home / "params.yaml").write_text("first: true\n")
    with locks.hold("pipeline"):
        code = main(["run", "seed=7"])
    assert code == 1
    assert "pipeline: process" in capsys.readouterr().err
    assert (home / "params.yaml").read_text() == "first: true\n"
