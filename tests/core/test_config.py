"""Configurations refuse what they do not know, and say what they do."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from stages.core.config import check, choose, config
from stages.core.spec import SamplerSpec, even


@config
class Small:
    steps: int
    times: tuple[float, ...]


@config
class Left:
    kind: Literal["left"]
    width: int


@config
class Right:
    kind: Literal["right"]


Either = Annotated[Left | Right, Field(discriminator="kind")]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"steps": 4.5, "times": []}, r"s\.steps: .*integer.*4\.5"),
        ({"steps": "4", "times": []}, r"s\.steps: .*integer.*'4'"),
        ({"steps": 4}, r"s\.times: missing"),
        ({"steps": 4, "times": [], "step": 1}, r"s\.step: unknown parameter; did you mean 'steps'"),
        ({"steps": 4, "times": [], "zzz": 1}, r"s\.zzz: unknown parameter; valid keys: steps, times"),
    ],
)
def test_a_fault_names_its_address_and_the_remedy(section, message):
    with pytest.raises(ValueError, match=message):
        check(Small, section, "s")


def test_every_fault_is_listed():
    with pytest.raises(ValueError, match=r"(?s)s\.steps.*s\.times"):
        check(Small, {}, "s")


def test_a_union_is_chosen_by_its_tag():
    assert check(Either, {"kind": "right"}, "s") == Right(kind="right")
    with pytest.raises(ValueError, match=r"s\..*middle"):
        check(Either, {"kind": "middle"}, "s")
    with pytest.raises(ValueError, match=r"hight: unknown parameter; valid keys: kind, width"):
        check(Either, {"kind": "left", "width": 1, "hight": 2}, "s")


def test_choose_lists_the_valid_names():
    with pytest.raises(ValueError, match=r"no solver is called 'eular'; did you mean 'euler'\? Valid: euler, heun"):
        choose({"euler": 1, "heun": 2}, "eular", "solver", "trajectories.rule")


@pytest.mark.parametrize("times", [(1.0,), (0.9, 0.0), (1.0, 0.1), (1.0, 0.5, 0.5, 0.0)])
def test_a_sampler_runs_from_noise_to_data(times):
    with pytest.raises(ValueError, match=r"fall from 1\.0 to 0\.0"):
        SamplerSpec(rule="euler", times=times, guidance=1.0)


def test_even_steps():
    assert even(4).times == (1.0, 0.75, 0.5, 0.25, 0.0)
    with pytest.raises(ValueError, match="at least one step"):
        even(0)
