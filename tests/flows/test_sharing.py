"""An artefact pushed to S3 by one is there for another, who then has nothing to do. A real S3 server, over HTTP."""

import shutil

import pytest
from moto.server import ThreadedMotoServer

from tests.flows.clone import Clone

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def bucket(monkeypatch):
    """The endpoint of a server with an empty bucket `team`; credentials come from the environment, as they should."""
    import boto3

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    settings = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    settings |= {"AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED", "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="team")
    yield endpoint
    server.stop()


def test_a_colleague_pulls_what_was_pushed_and_has_nothing_to_do(tmp_path, bucket):
    mine, yours = Clone(tmp_path / "mine"), Clone(tmp_path / "yours")
    composed = mine.fewstep("compose", "experiment=smoke")
    assert composed.returncode == 0, composed.stderr
    made = mine.dvc("repro", "dataset")
    assert made.returncode == 0, made.stdout + made.stderr
    for clone in (mine, yours):
        assert clone.dvc("remote", "add", "-d", "team", "s3://team/fewstep").returncode == 0
        assert clone.dvc("remote", "modify", "team", "endpointurl", bucket).returncode == 0
    pushed = mine.dvc("push", "--run-cache", "dataset")
    assert pushed.returncode == 0, pushed.stderr

    for file in ("dvc.lock", "params.yaml"):  # git would bring these
        shutil.copy(mine.root / file, yours.root / file)
    pulled = yours.dvc("pull", "--run-cache", "dataset")
    assert pulled.returncode == 0, pulled.stderr
    manifest = "data/dataset/manifest.json"
    assert (yours.root / manifest).read_bytes() == (mine.root / manifest).read_bytes()
    assert "up to date" in yours.dvc("status", "dataset").stdout

    (yours.root / "dvc.lock").unlink()  # the run cache knows the result of these parameters even without the lock
    shutil.rmtree(yours.root / "data" / "dataset")
    again = yours.dvc("repro", "dataset")
    assert again.returncode == 0, again.stderr
    assert "Running" not in again.stdout, "the stage must come from the run cache"
    assert (yours.root / manifest).read_bytes() == (mine.root / manifest).read_bytes()


def test_a_missing_bucket_is_an_error_and_loses_nothing(tmp_path, bucket):
    mine = Clone(tmp_path / "mine")
    assert mine.fewstep("compose", "experiment=smoke").returncode == 0
    assert mine.dvc("repro", "dataset").returncode == 0
    before = mine.lock()
    mine.dvc("remote", "add", "-d", "team", "s3://nobodys/fewstep")
    mine.dvc("remote", "modify", "team", "endpointurl", bucket)
    pushed = mine.dvc("push", "dataset")
    assert pushed.returncode != 0
    assert mine.lock() == before
    assert (mine.root / "data/dataset/manifest.json").is_file()
