"""A gang of workers through Ray Train: the same artefact as one worker's, also after one of them was killed."""

import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import yaml

from flows.compute import Compute
from flows.table import Node
from stages.io import artefacts
from stages.io import run as stages_run
from stages.io.job import Job
from tests.flows.test_guards import COMPUTE

TEACHER = {"teacher": {"budget": {"slices": 4}}, "rl": {"arms": {"dgpo": {"budget": {"slices": 1}}}}}


def compute(**changes):
    return Compute.of({"compute": COMPUTE | changes})


def test_workers_must_divide_slices():
    compute(workers={"default": 1, "teacher": 2}).check_shares(Node("teacher"), TEACHER)
    with pytest.raises(ValueError, match=r"compute\.workers\.teacher=3 does not divide teacher\.budget\.slices=4"):
        compute(workers={"default": 1, "teacher": 3}).check_shares(Node("teacher"), TEACHER)
    with pytest.raises(ValueError, match=r"workers\.default=2 does not divide rl\.arms\.dgpo\.budget\.slices=1"):
        compute(workers={"default": 2}).check_shares(Node("rl", "dgpo"), TEACHER)


def test_workers_are_for_stages_that_train():
    assert compute(workers={"default": 2}).workers_of("evaluate") == 1
    with pytest.raises(ValueError, match=r"compute\.workers\.evaluate: only teacher, distill, rl"):
        compute(workers={"default": 1, "evaluate": 2})
    with pytest.raises(ValueError, match=r"compute\.workers\.rl=0: one worker at least"):
        compute(workers={"default": 1, "rl": 0})


def test_workers_do_not_share_a_gpu():
    shared = compute(workers={"default": 1, "teacher": 2}, gpus={"default": 0.5})
    with pytest.raises(ValueError, match=r"compute\.gpus: 0\.5 for each of compute\.workers\.teacher=2"):
        shared.check_shares(Node("teacher"), TEACHER)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    from tests.flows.clone import Clone

    made = Clone(tmp_path_factory.mktemp("gang"))
    loop = made.root / "stages" / "training" / "loop.py"
    loop.write_text(loop.read_text().replace("SAVE_EVERY_S = 20.0", "SAVE_EVERY_S = 0.2"))
    ports = ("--prefect-port", str(free_port()), "--without", "mlflow")
    compose(made, 1)
    try:
        assert not (started := made.fewstep("up", *ports)).returncode, started.stderr
        assert not (run := made.fewstep("stage", "dataset")).returncode, run.stderr
        yield made
    finally:
        made.fewstep("down")


def compose(clone, workers, *words):
    sizes = ("teacher.budget.slices=2", "teacher.budget.iterations=100", "compute.num_cpus=2")
    told = clone.fewstep("compose", "experiment=smoke", *sizes, f"+compute.workers.teacher={workers}", *words)
    assert not told.returncode, told.stderr


def wait_for(what, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


def reported(clone):
    """The last step that the teacher reported, with a checkpoint beside it; 0 before."""
    for file in (clone.root / ".fewstep/work/teacher").glob("*/all.jsonl"):
        lines = [line for line in file.read_text().split("\n")[:-1] if line]
        if lines and (file.parent / "all" / "resume" / "state.safetensors").is_file():
            return json.loads(lines[-1])["step"]
    return 0


def ranks(clone):
    """The gang's processes."""
    head = psutil.Process(json.loads((clone.root / ".fewstep/services/ray.json").read_text())["pid"])
    found = []
    for process in head.children(recursive=True):
        try:
            found += [process] if "RayTrainWorker" in " ".join(process.cmdline()) else []
        except psutil.Error:
            continue
    return found


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_two_workers_make_what_one_makes_even_if_one_is_killed(clone, tmp_path, monkeypatch):
    monkeypatch.chdir(clone.root)
    section = yaml.safe_load((clone.root / "params.yaml").read_text())["teacher"]
    inputs = {"dataset": str(clone.root / "data/dataset")}
    job = Job(stage="teacher", arm=None, seed=0, section=section, inputs=inputs)
    alone = tmp_path / "alone"
    stages_run.run(job, alone, tmp_path / "work", lambda *_: None)

    compose(clone, 2)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(clone.fewstep, "stage", "teacher")
        wait_for(lambda: reported(clone) >= 20, 120)
        gang = ranks(clone)
        assert len(gang) == 2
        gang[1].send_signal(signal.SIGKILL)
        killed = running.result(timeout=60)
    assert killed.returncode
    assert "a worker was killed or crashed; finished units are kept, run it again to go on from there" in killed.stderr
    assert 20 <= reported(clone) < 100

    again = clone.fewstep("stage", "teacher")
    assert not again.returncode, again.stderr
    assert artefacts.digest(clone.root / "data/teacher") == artefacts.digest(alone)
    wait_for(lambda: not ranks(clone), 20)
