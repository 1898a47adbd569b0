"""The pipeline with its bulk data on S3: a real server over HTTP, a bad network, two clones and their quarrels."""

import json
import os
import re
import shutil
from contextlib import contextmanager

import pytest
import yaml

from flows.project.nodes import Node
from stages.io import artefacts
from stages.io.job import Job
from stages.io.run import run
from tests import s3
from tests.flows.clone import Clone, refused
from tests.waiting import PATIENCE_S, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

STAGES = ("dataset", "teacher", "encode", "trajectories")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, s3.server("team") as endpoint:
        patch.setenv("FEWSTEP_CACHE", str(tmp_path_factory.mktemp("cache")))
        network = s3.Network(endpoint)
        patch.setenv("AWS_ENDPOINT_URL_S3", network.endpoint)
        yield network
        network.close()


@pytest.fixture(scope="module")
def mine(tmp_path_factory, network):
    """A clone whose first three stages were made on S3, over a network that fails now and then."""
    clone = Clone(tmp_path_factory.mktemp("mine"))
    store = ("storage=s3", "storage.root=s3://team/fewstep", f"storage.endpoint={network.endpoint}")
    composed = clone.fewstep("compose", "experiment=smoke", *store)
    assert composed.returncode == 0, composed.stderr
    clone.up("--without", "mlflow")
    network.fault("503", 6, r"PUT .*/objects/")
    made = clone.fewstep("run", "experiment=smoke", *store, "--until", "trajectories")
    assert made.returncode == 0, made.stdout + made.stderr
    assert network.struck == 6
    network.fault("", 0)
    yield clone
    assert {"prefect", "ray"} <= clone.down()


@pytest.fixture(scope="module")
def yours(tmp_path_factory, mine):
    """A colleague's clone, after `dvc pull`."""
    assert "s3://team/fewstep/dvc" in mine.fewstep("remote").stdout
    pushed = mine.dvc("push", "--run-cache", *STAGES)
    assert pushed.returncode == 0, pushed.stderr
    clone = Clone(tmp_path_factory.mktemp("yours"))
    for file in ("dvc.lock", "params.yaml", ".dvc/config"):  # git would bring these
        shutil.copy(mine.root / file, clone.root / file)
    pulled = clone.dvc("pull", *STAGES)
    assert pulled.returncode == 0, pulled.stderr
    clone.borrow(mine)
    return clone


def test_the_bulk_is_in_the_store_and_dvc_tracks_the_manifest(mine):
    for stage in STAGES:
        folder = mine.root / "data" / stage
        manifest = json.loads((folder / "manifest.json").read_text())
        assert manifest["objects"] == "s3://team/fewstep"
        assert not list(folder.rglob("*.safetensors"))
        assert any(entry["path"].endswith(".safetensors") for entry in manifest["files"])
    assert not list((mine.root / ".fewstep/work").rglob("*.safetensors"))


def test_it_is_the_artefact_that_a_plain_process_makes(mine, tmp_path):
    content = yaml.safe_load((mine.root / "params.yaml").read_text())
    inputs = {}
    for stage in STAGES:
        section = Node(stage).section(content)
        run(
            Job(stage=stage, arm=None, seed=0, section=section, inputs=dict(inputs)),
            tmp_path / stage, tmp_path / "work", lambda *_: None,
        )  # fmt: skip
        inputs[stage] = str(tmp_path / stage)
        assert artefacts.digest(tmp_path / stage) == artefacts.digest(mine.root / "data" / stage), stage


def test_a_colleague_has_nothing_to_do_and_reads_the_weights_from_the_store(yours):
    assert "up to date" in yours.dvc("status", *STAGES).stdout
    done = yours.fewstep("sample", "teacher", "--prompt", "a bold left-slanted 7", "--nfe", "1")
    assert done.returncode == 0, done.stderr
    assert (yours.root / "sample.png").is_file()


def test_the_same_work_in_two_clones_is_done_by_one(mine, yours):
    """A teacher that takes long, begun by both: one makes it, the other is told."""
    long = "iterations: 20\n", "iterations: 20000\n"
    with _edited(mine, *long), _edited(yours, *long):
        first = mine.begin("stage", "teacher")
        try:
            wait_for(lambda: any((mine.root / ".fewstep/work/teacher").rglob("all.jsonl")))
            second = yours.fewstep("stage", "teacher")
        finally:
            first.terminate()
            stopped = first.wait(PATIENCE_S)
    refused(second, r"teacher: process \d+ on .* is making the same from another clone .*wait for it")
    assert stopped != 0
    assert not _leases(), "a stage that was stopped lets go"


@contextmanager
def _edited(clone, before, after, count=-1):
    """With `after` for `before` in its parameters, and then as they were, for the tests that follow."""
    file = clone.root / "params.yaml"
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after, count))
    try:
        yield
    finally:
        file.write_text(text)


def _leases():
    from stages.io.storage import Store

    return [name for name in Store("s3://team/fewstep").list("work") if name.endswith(".lease.json")]


def test_an_expired_token_stops_with_one_message_and_loses_nothing(mine, network):
    lock = mine.lock()
    with _edited(mine, "guidance: 1.0", "guidance: 1.5", 1):
        network.fault("expired", 10**6)
        done = mine.fewstep("stage", "trajectories")
        network.fault("", 0)
    refused(done, r"s3://team/fewstep.*: the AWS credentials have expired .*renew them and run it again")
    assert mine.lock() == lock
    assert "test" not in re.findall(r"AWS_SECRET\w*=\w+", done.stderr)


def test_garbage_is_shown_then_collected_and_nothing_else(mine, network):
    import boto3

    client = boto3.client("s3", endpoint_url=network.endpoint)
    litter = "fewstep/objects/00/" + "0" * 64
    client.put_object(Bucket="team", Key=litter, Body=b"left behind")
    listed = lambda: {o["Key"] for o in client.list_objects_v2(Bucket="team", Prefix="fewstep/objects").get("Contents")}  # noqa: E731
    before = listed()
    young = mine.fewstep("gc")
    assert "deleted 0 objects" in young.stdout, young.stderr
    looked = mine.fewstep("gc", "--dry-run", "--older-than", "0")
    assert "would delete" in looked.stdout
    assert "would delete 0 objects" not in looked.stdout
    assert listed() == before
    done = mine.fewstep("gc", "--older-than", "0")
    assert done.returncode == 0, done.stderr
    assert litter not in listed()
    shutil.rmtree(os.environ["FEWSTEP_CACHE"])
    for stage in STAGES:
        artefacts.verify(mine.root / "data" / stage)
    assert mine.fewstep("sample", "teacher", "--prompt", "a bold left-slanted 7").returncode == 0


def test_a_push_to_a_missing_bucket_is_an_error_and_loses_nothing(mine, network):
    lock = mine.lock()
    assert mine.dvc("remote", "add", "wrong", "s3://nobodys/fewstep").returncode == 0
    assert mine.dvc("remote", "modify", "wrong", "endpointurl", network.endpoint).returncode == 0
    assert mine.dvc("push", "-r", "wrong", "dataset").returncode != 0
    assert mine.lock() == lock
    assert (mine.root / "data/dataset/manifest.json").is_file()


def test_a_store_that_is_none_is_refused_before_any_work(mine):
    before = (mine.root / "params.yaml").read_text()
    done = mine.fewstep("run", "experiment=smoke", "storage.root=team/fewstep")
    refused(done, "storage.root=team/fewstep: must be s3://bucket/prefix")
    assert (mine.root / "params.yaml").read_text() == before
