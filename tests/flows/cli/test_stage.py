"""What `dvc repro` runs: a constant command, which takes the stage from DVC, and never a name's own words."""

import argparse

import pytest
import yaml

from flows.cli.commands import stage
from stages.io import replicates
from tests.flows.clone import Clone

NAMES = ["x;touch PWNED;", "$(touch PWNED)", "a b", "`touch PWNED`"]


@pytest.mark.parametrize(
    ("given", "address", "name"),
    [
        (["teacher", None], "dataset", "teacher"),
        (["distill", "a"], None, "distill@a"),
        (["distill@a", None], None, "distill@a"),
        ([None, None], "distill@a", "distill@a"),
        ([None, None], "../dvc.yaml:distill@a", "distill@a"),
        ([None, None], "../../dvc.yaml:teacher", "teacher"),
        ([None, None], "distill@../dvc.yaml:teacher", "distill@../dvc.yaml:teacher"),  # a name, and no good one
    ],
)
def test_the_stage_is_the_one_that_is_named_or_that_dvc_runs(monkeypatch, given, address, name):
    monkeypatch.delenv(stage.DVC_STAGE, raising=False)
    if address:
        monkeypatch.setenv(stage.DVC_STAGE, address)
    assert stage._named(argparse.Namespace(name=given[0], arm=given[1])) == name


def test_without_dvc_a_name_is_wanted(monkeypatch):
    monkeypatch.delenv(stage.DVC_STAGE, raising=False)
    with pytest.raises(ValueError, match=r"name a stage, such as teacher or distill@tdm1"):
        stage._named(argparse.Namespace(name=None, arm=None))


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path)


@pytest.mark.integration
def test_dvc_runs_nothing_of_an_arms_name(clone):
    """A params.yaml written by hand, whose arms are called like commands, and all that they read is there."""
    content = yaml.safe_load(clone.fewstep("compose", "--show").stdout)
    content["distill"]["arms"] = dict.fromkeys(NAMES, content["distill"]["arms"]["tdm1"])
    content["trainings"] = replicates.trainings(content)
    (clone.root / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    for folder in ("dataset", "teacher", "encode"):
        (clone.root / "data" / folder).mkdir()
        (clone.root / "data" / folder / "file").touch()
    before = {path.name for path in clone.root.iterdir()}
    nodes = [*(f"distill@{name}" for name in NAMES), "dataset"]  # another stage does not run beside such names either
    done = clone.dvc("repro", "--keep-going", "--single-item", *nodes)
    assert done.returncode != 0
    assert all(f"Running stage '{node}'" in done.stdout for node in nodes), done.stderr
    assert done.stderr.count("python -m flows stage, exited with 1") == len(nodes)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    told = [f"'{name}' is no arm's name: one is a letter of A-Z or a-z" for name in NAMES]
    wanted = [*told, *(f"distill.arms.{name}: {said}" for name, said in zip(NAMES, told, strict=True))]
    assert [error.removeprefix("error: ").partition(", then")[0] for error in errors] == wanted
    assert "Traceback" not in done.stdout + done.stderr
    assert {path.name for path in clone.root.iterdir()} == before
