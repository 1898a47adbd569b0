"""The bench of companions: every arm of its preset is told, and every claim is of rows that are there."""

import pytest

from benchmarks import companions
from benchmarks.arms import rows_of
from stages import distill
from stages.core.config import check
from stages.distillers import METHODS
from stages.samplers.spec import Sampler, calls
from stages.training import arm
from tests.composed import params_of


def row(nfe: float, distance: float) -> dict[str, float]:
    spread = {"frechet_distance_trainings_deviation": 0.1, "frechet_distance_trainings_low": distance - 0.2}
    return {"nfe": nfe, "network_calls": nfe, "trainings": 3, "frechet_distance": distance, **spread}


def test_every_claim_is_of_an_arm_of_the_preset_with_its_calls() -> None:
    composed = params_of("experiment=companions")
    made = {}
    for name, section in composed["distill"]["arms"].items():
        section.pop("replicates")
        cfg = arm.configure(section, distill.Common, METHODS, name, "method")
        spec = cfg.common.sampler.spec if cfg.common.sampler else cfg.method.sampler(cfg.settings)
        made[name] = calls(spec)
    for _, *pair in companions.CLAIMS:
        for name, nfe in pair:
            known = composed["evaluate"]["teacher_nfe"] if name == "teacher" else [made.get(name)]
            assert nfe in known, (name, nfe, known)


def test_the_page_has_a_row_for_each_way_and_a_verdict_for_each_claim() -> None:
    metrics = {
        "teacher": {"nfe6": row(6, 2.5), "nfe8": row(8, 2.4)},
        "distill": {"cd": row(2, 3.0), "cd_teacher": row(3, 2.0), "small": row(8, 4.0), "small_stitched": row(8, 3.0)},
    }
    rows = list(rows_of(metrics, ("teacher", "distill")))
    text = companions.networks(rows)
    assert text.count("\n| `") == 6
    assert text.index("`cd` | 2") < text.index("`teacher` | 6") < text.index("`teacher` | 8")
    text = companions.compared(rows)
    assert "cd_teacher at 3: 2.00 ± 0.20 against cd at 2: 3.00 ± 0.20" in text
    assert text.count("\n| a tenth") == 1, "what was not measured has no verdict"
    assert "holds" in text


@pytest.mark.parametrize("way", list(companions.ways()), ids=lambda way: way[0])
def test_every_way_of_leading_away_is_a_sampler(way: tuple) -> None:
    _, folders, stated = way
    assert check(Sampler, {"rule": {"name": "euler"}, **stated}, "sampler").spec.num_steps in (2, 8)
    assert folders
