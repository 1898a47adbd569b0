"""Several raylets as a cluster: every node checked, units on both, nothing shared but S3, and one artefact."""

import json
import re
import shutil
import subprocess
import time

import pytest
import yaml

from flows.project.nodes import Node
from stages.io import artefacts
from stages.io import run as stages_run
from stages.io.job import Job
from stages.io.storage import Store
from tests import s3
from tests.flows.clone import Clone, refused
from tests.flows.raylets import Cluster
from tests.waiting import PATIENCE_S, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, s3.server("team") as endpoint:
        patch.setenv("FEWSTEP_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        yield endpoint


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, store):
    # A node is dead when it refused three times; Ray's own patience takes a quarter of a minute. Workers start when
    # there is work: else each run begins with one on every CPU, also the runs that are refused. At Ray's own niceness,
    # 15, they would wait for whatever else this machine does.
    ours = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
    ours |= {"RAY_prestart_worker_first_driver": "false", "RAY_worker_niceness": "0"}
    cluster = Cluster(tmp_path_factory.mktemp("ray"), **ours)
    yield cluster
    cluster.close()


@pytest.fixture(scope="module")
def clone(tmp_path_factory, cluster):
    """A clone whose driver has joined the cluster."""
    clone = Clone(tmp_path_factory.mktemp("clone"))
    assert clone.fewstep("compose", *joined(cluster)).returncode == 0
    clone.up("--without", "mlflow", "--without", "ray")
    yield clone
    assert "prefect stopped" in clone.fewstep("down").stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory, clone):
    """The package as a wheel would install it."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("stages", "flows"):
        shutil.copytree(clone.root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def joined(cluster):
    return ("experiment=smoke", "compute=address", f"compute.address={cluster.address}")


def words(cluster, store):
    bulk = ("storage=s3", "storage.root=s3://team/fewstep", f"storage.endpoint={store}")
    return (*joined(cluster), "teacher.budget.slices=2", "+compute.workers.teacher=2", *bulk)


def record(clone, stage):
    return json.loads((clone.root / f"data/lineage/{stage}.json").read_text())


def test_a_cluster_that_is_too_small_is_refused_before_any_work(clone, cluster):
    done = clone.fewstep("run", *joined(cluster), "+compute.gpus.teacher=1", "--until", "teacher")
    refused(done, r"compute.gpus: a task of teacher asks for 1 CPU, 1 GPU, the Ray at .* has 0 on its largest node")


def test_nodes_that_cannot_do_the_work_are_named(clone, cluster, installed, tmp_path):
    """Without a store: one whose code is another, and one without the project's folder."""
    other = tmp_path / "site"
    shutil.copytree(installed, other)
    (other / "stages/core/path.py").write_text((installed / "stages/core/path.py").read_text() + "\n# other\n")
    node = cluster.add(hide=clone.root, PYTHONPATH=str(other))
    cluster.add(hide=clone.root, PYTHONPATH=str(installed))
    done = clone.fewstep("run", *joined(cluster), "--until", "dataset")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    first, second = sorted(re.findall(r"^error: node .*?\): (.*)$", done.stderr, flags=re.M))
    assert done.stderr.count("error: ") == 2
    assert re.match(r"a worker with another version of the code \(.*site\); install the same commit", first)
    assert second.startswith(f"does not see the folder {clone.root}; put the project on a folder that all nodes share")
    cluster.kill(node)
    cluster.wait_for(2)
    assert not (clone.root / "data/dataset").exists()


def test_units_and_a_gang_run_on_both_nodes_and_nothing_is_shared_but_s3(clone, cluster, store, installed):
    done = clone.fewstep("run", *words(cluster, store), "compute.nodes=2", "--until", "trajectories")
    assert done.returncode == 0, done.stdout + done.stderr
    spans = record(clone, "trajectories")["spans"]
    assert len({span["node"] for span in spans if span["task"] == "work"}) == 2
    kept = sorted((clone.root / ".fewstep/records/trajectories").glob("*.jsonl"))
    assert [file.name for file in kept if file.name.count(".") == 1 and file.stat().st_size], kept
    events = [json.loads(line) for line in (clone.root / ".fewstep/logs/events.jsonl").read_text().splitlines()]
    told = [
        event for event in events if event["stage"] == "trajectories" and event["unit"] and "starts" in event["message"]
    ]
    assert {event["unit"] for event in told} >= {span["unit"] for span in spans if span["task"] == "work"}


def test_it_is_the_artefact_that_a_plain_process_makes(clone, tmp_path):
    content, inputs = yaml.safe_load((clone.root / "params.yaml").read_text()), {}
    for stage in ("dataset", "teacher", "encode", "trajectories"):
        job = Job(stage=stage, arm=None, seed=0, section=Node(stage).section(content), inputs=dict(inputs))
        stages_run.run(job, tmp_path / stage, tmp_path / "work", lambda *_: None)
        inputs[stage] = str(tmp_path / stage)
        assert artefacts.digest(tmp_path / stage) == artefacts.digest(clone.root / "data" / stage), stage


def test_rewards_are_computed_on_a_node_of_their_own(clone, cluster, store, installed, tmp_path):
    node = cluster.add("--resources", '{"reward_box": 1}', hide=clone.root, PYTHONPATH=str(installed))
    box = ("compute.rewards.workers=1", "+compute.rewards.resources.reward_box=1", "--until", "rl@dgpo")
    more = ("compute.rewards.workers=2", *box[1:])
    asked = r"compute.rewards.workers: 2 workers beside 1 of its tasks ask for 2 reward_box, the Ray at .* has 1"
    refused(clone.fewstep("run", *words(cluster, store), *more), asked)
    done = clone.fewstep("run", *words(cluster, store), *box)
    assert done.returncode == 0, done.stdout + done.stderr
    [span] = [span for span in record(clone, "rl@dgpo")["spans"] if span["task"] == "work"]
    assert len(span["judges"]) == 1
    assert span["judges"] != [span["node"]]
    cluster.kill(node)
    cluster.wait_for(2)

    content = yaml.safe_load((clone.root / "params.yaml").read_text())
    inputs = {name: str(clone.root / "data" / name) for name in ("dataset", "verifier", "encode")}
    section = content["trainings"]["rl"]["dgpo"]["section"]
    inputs["init"] = str(clone.root / section["init"])
    job = Job(stage="rl", arm="dgpo", seed=0, section=section, inputs=inputs)
    stages_run.run(job, tmp_path / "plain", tmp_path / "work", lambda *_: None)
    assert artefacts.digest(tmp_path / "plain") == artefacts.digest(clone.root / "data/rl/dgpo")


SIZE = ("trajectories.num_trajectories=640", "trajectories.sampler.schedule.steps=32", "trajectories.keep=[8]")
"""Five units, long enough to be struck."""


def test_a_node_that_dies_costs_what_it_was_doing(clone, cluster, store, tmp_path):
    """Then another joins that has half a GPU for each of two units at once; the artefact is the undisturbed one."""
    second = cluster.nodes[2]  # the first of them was another code's
    given = (*words(cluster, store), *SIZE)
    run = clone.begin("run", *given, "--until", "trajectories", stderr=subprocess.PIPE)
    store_of_all = Store("s3://team/fewstep")

    def sealed():
        return any(name.endswith("unit.json") for name in store_of_all.list("work/trajectories"))

    wait_for(lambda: (cluster.works(second) and sealed()) or run.poll() is not None)
    assert run.poll() is None, run.stderr.read()
    cluster.kill(second)
    said = run.communicate(timeout=PATIENCE_S)[1].decode()
    assert run.returncode != 0
    assert re.search(r"^error: .*(died|killed).*run it again", said, flags=re.M), said
    cluster.wait_for(1)
    assert sealed()

    began = time.time()
    cluster.add("--num-gpus=1", "--num-cpus=2")
    done = clone.fewstep("run", *given, "+compute.gpus.trajectories=0.5", "--until", "trajectories")
    assert done.returncode == 0, done.stdout + done.stderr
    spans = [s for s in record(clone, "trajectories")["spans"] if s["task"] == "work" and s["start"] > began]
    assert len({span["node"] for span in spans}) == 1, "the GPU is on one node"
    assert any(a["start"] < b["start"] < a["end"] for a in spans for b in spans), "two halves at once"

    content = yaml.safe_load((clone.root / "params.yaml").read_text())
    inputs = {name: str(clone.root / "data" / name) for name in ("dataset", "teacher", "encode")}
    job = Job(stage="trajectories", arm=None, seed=0, section=content["trajectories"], inputs=inputs)
    stages_run.run(job, tmp_path / "plain", tmp_path / "work", lambda *_: None)
    assert artefacts.digest(tmp_path / "plain") == artefacts.digest(clone.root / "data/trajectories")


def test_a_job_runs_the_same_command_on_the_head(clone, cluster, store, capfd):
    address = f"http://127.0.0.1:{cluster.dashboard}"
    missing = clone.fewstep("submit", "--address", address, "--dir", "/nowhere")
    assert missing.returncode == 1
    assert "error: no project in /nowhere on the head" in missing.stdout
    assert re.search(r"error: job raysubmit_\w+: failed", missing.stderr), missing.stderr
    # What was made is up to date: the same parameters, composed on the head.
    given = [word for word in words(cluster, store) if not word.startswith("compute")]
    done = clone.fewstep("submit", *given, *SIZE, "--until", "trajectories", "--address", address)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all up to date" in done.stdout
    refused(clone.fewstep("submit", "--address", "http://127.0.0.1:9"), "no Ray dashboard answers there")
