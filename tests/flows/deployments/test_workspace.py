"""What a scheduled run makes of tools that fail: what may pass is tried again, what a person must mend is not."""

import shutil
import subprocess
from collections import namedtuple

import pytest

from flows.deployments.workspace import Checkout
from flows.runtime import errors, processes
from flows.runtime.errors import Passing
from stages.io.storage import StorageError
from tests import s3

pytestmark = pytest.mark.filterwarnings("ignore")  # of moto's server, which runs in this process


def git(where, *words):
    who = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
    return subprocess.run(["git", *who, *words], cwd=where, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path):
    """A clone of a bare origin, with a commit to push."""
    origin, root = tmp_path / "origin.git", tmp_path / "worker"
    git(tmp_path, "init", "-q", "--bare", "-b", "main", str(origin))
    said = []
    made = Checkout(root, "one", "run", said.append)
    made.folder.parent.mkdir(parents=True)
    git(tmp_path, "clone", "-q", str(origin), str(made.folder))
    git(made.folder, "checkout", "-q", "-b", made.branch)
    git(made.folder, "commit", "-qm", "begun", "--allow-empty")
    return made


def test_a_disk_that_is_full_is_not_tried_again(checkout, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 10, 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match="only 1 MiB are free"):
        checkout._across(["git", "fetch", "nowhere"])


def test_an_origin_that_is_away_may_come_back_one_that_refuses_does_not(checkout, tmp_path):
    push = ["git", "push", "-q", "origin", checkout.branch]
    origin = tmp_path / "origin.git"
    origin.rename(tmp_path / "away")
    with pytest.raises(Passing, match="Could not read from remote repository"):
        checkout._across(push)
    (tmp_path / "away").rename(origin)
    (origin / "hooks/pre-receive").write_text("#!/bin/sh\nexit 1\n")
    (origin / "hooks/pre-receive").chmod(0o755)
    with pytest.raises(processes.NoAnswer, match="failed to push"):
        checkout._across(push)


@pytest.mark.slow
def test_of_dvc_s_remote_our_own_code_tells_what_may_pass(checkout):
    with s3.server("team") as endpoint:
        network = s3.Network(endpoint)
        (checkout.folder / ".dvc").mkdir()
        settings = (
            f"[core]\n remote = team\n['remote \"team\"']\n url = s3://team/dvc\n endpointurl = {network.endpoint}\n"
        )
        (checkout.folder / ".dvc/config").write_text(settings)
        assert checkout.remote() == "team"
        network.fault("expired", 10**6)
        with pytest.raises(StorageError, match="the AWS credentials have expired") as refusal:
            checkout._share("push", "--no-such-option")
        assert not errors.passes(refusal.value)
        network.fault("", 0)
        with pytest.raises(Passing, match="unrecognized arguments"):  # the remote answers: it was not that
            checkout._share("push", "--no-such-option")
        network.close()


def test_a_password_in_an_address_is_not_logged(checkout):
    with pytest.raises(Passing):
        checkout._across(["git", "fetch", "https://me:secret@127.0.0.1:9/x.git"])
    said = checkout.say.__self__
    assert said
    assert "secret" not in "".join(said)
