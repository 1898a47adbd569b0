"""Configurations refuse what they do not know, and say what they do."""

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Literal

import pytest
from pydantic import Field

from stages.core.config import check, config
from stages.core.messages import choose, together
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
        SamplerSpec(rule={"name": "euler"}, schedule={"name": "explicit"}, times=times, guidance=1.0)


def test_a_sampler_names_its_rule():
    with pytest.raises(ValueError, match=r"should have a name beside its knobs \(got \{'noise_level': 1\}\)"):
        SamplerSpec(rule={"noise_level": 1}, schedule={"name": "explicit"}, times=(1.0, 0.0), guidance=1.0)


def test_even_steps():
    assert even(4).times == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert even(4).schedule == {"name": "uniform", "steps": 4}
    with pytest.raises(ValueError, match="at least one step"):
        even(0)


@config
class Nest:
    either: Either
    small: Small | None
    table: Mapping[str, Annotated[int, Field(ge=1)]]
    rows: tuple[Small, ...]

    def __post_init__(self) -> None:
        if self.small is None and not self.rows:
            raise ValueError("small and rows are both empty; give one")


NEST = {"either": {"kind": "left", "width": 1}, "small": {"steps": 1, "times": []}, "table": {}, "rows": []}


@pytest.mark.parametrize(
    ("changes", "address"),
    [
        ({"either": {"kind": "left", "width": "x"}}, r"n\.either\.width: .*got 'x'"),  # the tag is no key
        ({"either": {"kind": "middle"}}, r"n\.either\.kind: 'middle' is none of left, right$"),
        ({"either": {"kind": "rihgt"}}, r"n\.either\.kind: 'rihgt' is none of left, right; did you mean 'right'\?"),
        ({"either": {}}, r"n\.either\.kind: missing; name one of left, right"),
        ({"either": None}, r"n\.either: should be a mapping"),
        ({"small": {"step": 1, "times": []}}, r"n\.small\.steps: missing.*\nn\.small\.step: .*did you mean 'steps'"),
        ({"small": 3}, r"n\.small: should be a mapping of parameters \(got 3\)"),
        ({"table": None}, r"n\.table: should be a mapping of parameters \(got None\)"),
        ({"table": [1]}, r"n\.table: should be a mapping of parameters \(got \[1\]\)"),
        ({"table": {"a": 0}}, r"n\.table\.a: .*greater than or equal to 1 \(got 0\)"),
        ({"rows": [{"steps": 1, "times": []}, {"steps": "x", "times": []}]}, r"n\.rows\.1\.steps: .*got 'x'"),
        ({"small": None}, r"^n: small and rows are both empty; give one$"),
    ],
)
def test_an_address_is_that_of_the_parameters_file(changes, address):
    with pytest.raises(ValueError, match=address):
        check(Nest, NEST | changes, "n")


@pytest.mark.parametrize("section", [None, [], 3, "x"])
def test_a_section_that_is_no_mapping_is_named(section):
    with pytest.raises(ValueError, match=r"^s: should be a mapping of parameters \(got "):
        check(Small, section, "s")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({True: 1}, r"n\.table\.True: the key True is no text; write it in quotes"),
        ({2: 1}, r"n\.table\.2: the key 2 is no text"),
        ({"a": date(2024, 1, 2)}, r"n\.table\.a: 2024-01-02 is a date; if a text is meant, write it in quotes"),
        ({"a": "???"}, r"n\.table\.a: missing; say n\.table\.a=\.\.\. on the command line"),
    ],
)
def test_what_yaml_can_write_and_json_cannot_is_named(value, message):
    with pytest.raises(ValueError, match=message):
        check(Nest, NEST | {"table": value}, "n")


@pytest.mark.parametrize(
    "changes",
    [{"table": 9999 * "x"}, {"table": {9999 * "x": 0}}, {9999 * "x": 0}, {"either": {"kind": 9999 * "x"}},
     {"rows": list(range(9999))}, {"small": {"steps": 9999 * "x", "times": []}}],
)  # fmt: skip
def test_no_input_makes_a_line_long(changes):
    with pytest.raises(ValueError, match=r"n\.") as refusal:
        check(Nest, NEST | changes, "n")
    assert all(len(line) < 400 for line in str(refusal.value).splitlines())


def test_names_are_listed_as_far_as_one_reads():
    with pytest.raises(ValueError, match="and 980 more") as refusal:
        choose({f"name{i}": i for i in range(1000)}, 9999 * "x", "solver", "rule")
    assert len(str(refusal.value)) < 400


def test_calls_together_tell_all_that_they_refuse():
    def refuse(text):
        raise ValueError(text)

    assert together(lambda: 1, lambda: 2) == [1, 2]
    with pytest.raises(ValueError, match=r"^a\nb$"):
        together(lambda: 1, lambda: refuse("a"), lambda: refuse("b"))
