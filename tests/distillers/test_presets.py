"""Presets that are another method's file with knobs of their own: each is an arm as it stands."""

from pathlib import Path
from typing import Any

import pytest

from stages.distill import Common
from stages.distillers import METHODS, diff_instruct, ladd, scm, sim
from stages.training import arm
from tests.composed import params_of

PARAMS = Path(__file__).parents[2] / "params"
NAMES = sorted({file.stem for file in (PARAMS / "distiller").glob("*.yaml")} - {*METHODS, "common"})


@pytest.fixture(scope="module")
def arms() -> dict[str, Any]:
    """Their sections, composed."""
    words = [f"+distiller@distill.arms.{name}={name}" for name in NAMES]
    return params_of(*words)["distill"]["arms"]


def configured(name: str, section: dict[str, Any]) -> arm.Arm[Common]:
    own = {key: value for key, value in section.items() if key != "replicates"}  # the pipeline's word
    return arm.configure(own, Common, METHODS, f"distill.arms.{name}", "distillation method")


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_an_arm_of_another_methods(name: str, arms: dict[str, Any]) -> None:
    assert configured(name, arms[name]).name in METHODS.keys() - {name}


def test_presets_are_what_they_are_called_after(arms: dict[str, Any]) -> None:
    names = ("sid", "swiftbrush", "snoopi", "add", "sana_sprint")
    sid, swiftbrush, snoopi, add, sana_sprint = (configured(name, arms[name]).settings for name in names)
    assert isinstance(sid, sim.Config)
    assert isinstance(sid.distance, sim.Squared)
    assert isinstance(swiftbrush, diff_instruct.Config)
    assert (swiftbrush.guides, swiftbrush.weighs, swiftbrush.guidance_range) == ("both", "noise", 0)
    assert isinstance(snoopi, diff_instruct.Config)
    assert (snoopi.guides, snoopi.guidance, snoopi.guidance + snoopi.guidance_range) == ("both", 0.5, 4.0)
    assert isinstance(add, ladd.Config)
    assert (add.gan, add.distillation.weight) == ("hinge", 2.5)
    assert isinstance(sana_sprint, scm.Config)
    assert (sana_sprint.adversarial.weight, sana_sprint.adversarial.gan, sana_sprint.matching.weight) == (
        0.5,
        "hinge",
        0,
    )
