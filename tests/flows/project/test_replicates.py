"""An arm that is trained several times, in real DVC: its Hydra composes it, and it keeps what it has of the others."""

import pytest
import yaml

from stages.io import params
from tests.flows.clone import ROOT, Clone

WORDS = ["experiment=smoke", "distill.arms.tdm1.replicates={}"]
NAMES = ["distill@tdm1", "distill@tdm1-r2", "distill@tdm1-r3"]


def words(count):
    return [word.format(count) for word in WORDS]


@pytest.mark.slow
def test_dvc_keeps_the_trainings_that_there_are_when_more_are_asked_for(project, tmp_path):
    clone = Clone(tmp_path)
    clone.borrow(project)
    asked = [part for word in words(2) for part in ("-S", word)]
    done = clone.dvc("exp", "run", *asked, "--single-item", "dataset")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (clone.root / "params.yaml").read_text() == params.compose(ROOT / "params", words(2))
    for name in ("teacher", "encode", "distill/tdm1", "distill/tdm1-r2"):
        (clone.root / "data" / name).mkdir(exist_ok=True)
        (clone.root / "data" / name / "payload").write_text(name)
        (clone.root / f"data/lineage/{name.replace('/', '@')}.json").write_text("{}")
    assert clone.dvc("commit", "--force", "teacher", "encode", *NAMES[:2]).returncode == 0
    assert clone.fewstep("compose", *words(3)).returncode == 0
    dry = clone.dvc("repro", "--dry", "--single-item", *NAMES)
    assert dry.returncode == 0, dry.stderr
    told = dry.stdout
    assert f"Stage '{NAMES[0]}' didn't change" in told
    assert f"Stage '{NAMES[1]}' didn't change" in told
    assert f"Running stage '{NAMES[2]}'" in told
    assert set(NAMES) <= set(clone.dvc("stage", "list", "--name-only").stdout.split())
    locked = yaml.safe_load(clone.lock())["stages"]
    assert list(locked[NAMES[1]]["params"]["params.yaml"]) == ["trainings.distill.tdm1-r2"]
