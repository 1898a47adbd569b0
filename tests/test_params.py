"""The committed params.yaml is what params/ composes into, and DVC's own Hydra writes the same bytes."""

from pathlib import Path

import pytest
from dvc.utils.hydra import compose_and_dump

from stages.io import params

ROOT = Path(__file__).parents[1]


def test_the_committed_parameters_are_the_composed_ones():
    assert (ROOT / "params.yaml").read_text() == params.compose(ROOT / "params"), "run `fewstep compose` and commit"


@pytest.mark.parametrize("overrides", [[], ["experiment=gmm"], ["distill.arms.tdm1.nfe=2", "seed=3"]])
def test_dvc_composes_the_same_bytes(tmp_path, overrides):
    file = tmp_path / "params.yaml"
    compose_and_dump(str(file), str(ROOT / "params"), None, "config", str(tmp_path), overrides)
    assert file.read_text() == params.compose(ROOT / "params", overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher.learning_rate=1", r"params/: .*learning_rate"),
        ("experiment=digit", r"params/: .*experiment/digit"),
        ("distill.arms.tdm9.nfe=2", r"params/: .*tdm9"),
    ],
)
def test_an_override_that_names_nothing_is_refused(override, message):
    with pytest.raises(ValueError, match=message):
        params.compose(ROOT / "params", [override])
