"""What clusters are made from: the AWS file against Ray's own check, the RayJob by its structure; the job's command."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from flows.cli.commands.submit import command

ROOT = Path(__file__).parents[3]


@pytest.mark.filterwarnings("ignore")
def test_ray_accepts_the_aws_cluster():
    from ray.autoscaler._private.util import prepare_config, validate_config

    content = yaml.safe_load((ROOT / "deploy/ray/aws.yaml").read_text())
    content["file_mounts"] = {}  # Ray would look for the token's file on this machine
    prepared = prepare_config(content)
    validate_config(prepared)
    assert prepared["available_node_types"]["worker"]["resources"]["GPU"] == 1
    content["available_node_types"]["worker"]["min_workers"] = 9
    with pytest.raises(ValueError, match="max_workers"):
        validate_config(prepare_config(content))


def test_the_rayjob_says_what_a_run_needs():
    job = yaml.safe_load((ROOT / "deploy/ray/rayjob.yaml").read_text())
    spec = job["spec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["backoffLimit"] >= 0
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"]["mode"] == "token"
    locked = re.search(r"^ray(?:\[.*\])?==([\d.]+)", (ROOT / "requirements.lock").read_text(), re.M)
    assert cluster["rayVersion"] == locked[1]
    groups = cluster["workerGroupSpecs"]
    pods = [cluster["headGroupSpec"], *groups]
    images = {container["image"] for pod in pods for container in pod["template"]["spec"]["containers"]}
    assert len(images) == 1, "one image: one version of the code"
    assert f"compute.nodes={1 + sum(group['replicas'] for group in groups)}" in spec["entrypoint"]


def test_a_folder_that_is_not_there_is_said_by_the_head(tmp_path):
    done = subprocess.run(
        ["sh", "-c", command(tmp_path / "no where", [], [])], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"error: no project in {tmp_path}/no where on the head" in done.stdout


def test_words_reach_the_pipeline_as_they_were(tmp_path):
    (tmp_path / "dvc.yaml").write_text("")
    bin_ = tmp_path / ".venv/bin"
    bin_.mkdir(parents=True)
    (bin_ / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (bin_ / "python").chmod(0o755)
    line = command(tmp_path, ["teacher.note='a b'", "rl.arms={}"], ["teacher"])
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, check=False, env={"RAY_ADDRESS": "h:1", "PATH": "/bin"}
    )
    said = ["-m", "flows", "run", "compute=address", "compute.address=h:1", "teacher.note='a b'", "rl.arms={}"]
    assert done.stdout.splitlines() == [*said, "--until", "teacher"], done.stderr
