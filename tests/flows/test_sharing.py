"""An artefact pushed to S3 by one is there for another, who then has nothing to do. A real S3 server, over HTTP."""

import shutil

import pytest

from tests import s3
from tests.flows.clone import Clone

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def bucket():
    """The endpoint of a server with an empty bucket `team`; credentials come from the environment, as they should."""
    with s3.server("team") as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A clone with one artefact."""
    made = Clone(tmp_path_factory.mktemp("mine"))
    composed = made.fewstep("compose", "experiment=smoke")
    assert composed.returncode == 0, composed.stderr
    repro = made.dvc("repro", "dataset")
    assert repro.returncode == 0, repro.stdout + repro.stderr
    return made


def test_a_missing_bucket_is_an_error_and_loses_nothing(mine, bucket):
    before = mine.lock()
    assert mine.dvc("remote", "add", "wrong", "s3://nobodys/fewstep").returncode == 0
    assert mine.dvc("remote", "modify", "wrong", "endpointurl", bucket).returncode == 0
    assert mine.dvc("push", "-r", "wrong", "dataset").returncode != 0
    assert mine.lock() == before
    assert (mine.root / "data/dataset/manifest.json").is_file()


def test_a_colleague_pulls_what_was_pushed_and_has_nothing_to_do(tmp_path, mine, bucket):
    yours = Clone(tmp_path / "yours")
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
