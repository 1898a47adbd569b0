"""What every row of the table keeps to."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml

from stages.core.spec import even
from stages.steering import STEERINGS
from stages.steering.run import fits
from tests.steering.rigs import MEMORYLESS, NORMAL, PARAMS, steering, task

pytestmark = pytest.mark.slow

EVERY = pytest.mark.parametrize("name", STEERINGS)
TURNED = {
    "fk": {"potential": "sum", "pick": "draw", "every": 3, "resampling": {"rule": "multinomial", "threshold": 1.0}},
    "svdd": {"process": "vp"},
    "rbf": {"process": "rule"},
    "fkc": {
        "target": {"name": "tilt", "strength": 4.0, "power": 2.0}, "pick": "draw",
        "resampling": {"rule": "multinomial", "threshold": 1.0},
    },
    "driftlite": {
        "target": {"name": "anneal", "power": 2.0}, "bases": ["state", "reward"], "control": "energy", "pick": "draw",
        "resampling": {"rule": "multinomial", "threshold": 1.0},
    },
    "dts": {"select": {"name": "upper", "bonus": 1.0}, "process": "vp", "exponent": 0.9},
    "minority": {"time": 0.2},
    "self_guided": {"time": 0.2},
    "psi": {"process": "vp", "pick": "draw", "resampling": {"rule": "multinomial", "threshold": 1.0}},
    "steady": {"until": 2},
}  # fmt: skip
"""What a knob is turned to, where it is no number that may be doubled."""
WITH = {
    "fk": {"strength": 8.0},
    "driftlite": {"target": {"name": "tilt", "strength": 4.0, "power": 1.0}, "bases": ["state"]},
    "dts": {"select": {"name": "soft"}},
}
"""Knobs at which others matter."""


def given(count=4):
    return task(NORMAL, lambda x: -(x - 2).square(), count=count, rule=MEMORYLESS, steps=8)


@EVERY
def test_a_sample_for_each_prompt_is_found_and_paid(name):
    chosen, asked = steering(name), given()
    assert yaml.safe_load((PARAMS / f"{name}.yaml").read_text())["name"] == name == chosen.name
    fits(chosen, even(8, rule="flow_sde", noise_level=MEMORYLESS["noise_level"]))
    before = torch.get_rng_state()
    found = chosen.search(asked)
    assert torch.equal(before, torch.get_rng_state()), "draw from the task, never from the global stream"
    assert found.x0.shape == (4, 1)
    assert found.x0.isfinite().all()
    assert (asked.calls > 0).all()
    assert (asked.scored > 0).all() == ("reward" in {field.name for field in fields(chosen)})
    for number in (found.reward, found.ess, found.resamplings):
        assert number is None or (number.shape == (4,) and number.isfinite().all())
    again = given()
    assert torch.equal(chosen.search(again).x0, found.x0), "same arguments, bitwise the same sample"


@EVERY
def test_what_other_prompts_ask_for_leaves_no_trace(name):
    whole, part = given(6), given(3)
    x0, alone = steering(name).search(whole).x0, steering(name).search(part).x0
    torch.testing.assert_close(x0[:3], alone, rtol=0, atol=1e-12)
    assert torch.equal(whole.calls[:3], part.calls)


KNOBS = [
    (name, field.name)
    for name, kind in STEERINGS.items()
    for field in fields(kind)
    if field.name not in ("name", "reward")
]


@pytest.mark.parametrize(("name", "knob"), KNOBS)
def test_every_knob_is_live(name, knob):
    known = WITH.get(name, {})
    plain = steering(name, **known)
    value = TURNED.get(name, {}).get(knob) or 2 * getattr(plain, knob)
    turned = steering(name, **{**known, knob: value})
    found = [each.search(given(40)).x0 for each in (plain, turned)]
    assert not torch.equal(*found)


def test_the_readme_has_a_row_for_each():
    text = (Path(__file__).parents[2] / "stages/steering/README.md").read_text()
    assert all(f"| `{name}` |" in text for name in STEERINGS)
    assert {file.stem for file in PARAMS.glob("*.yaml")} == set(STEERINGS)
