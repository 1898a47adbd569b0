"""Every number of every configuration has both ends and is finite."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pydantic
import pytest

from stages.core.ranges import Seed

ROOT = Path(__file__).parents[2]
BEYOND = {int: (10**30, -(10**30)), float: (1e300, -1e300, float("inf"), float("-inf"), float("nan"))}


def configurations() -> Iterator[type]:
    """Every class that @config made, wherever it is."""
    for file in sorted([*ROOT.glob("stages/**/*.py"), *ROOT.glob("flows/**/*.py")]):
        if "\n@config\n" not in file.read_text(encoding="utf-8"):
            continue
        module = importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts))
        for each in vars(module).values():
            if hasattr(each, "__pydantic_config__") and each.__module__ == module.__name__:
                yield each


def numbers(hint: Any, where: str) -> Iterator[tuple[str, type, Any]]:
    """(address, int or float, the type with all that is said of it) of every number in a field's type."""
    bare, beside = hint, hint
    while get_origin(bare) is Annotated:
        bare = get_args(bare)[0]
    if bare in BEYOND:
        yield where, bare, beside
    elif get_origin(bare) is not Literal:
        for index, each in enumerate(get_args(bare)):
            if each is not Ellipsis:
                yield from numbers(each, f"{where}[{index}]")


FIELDS = [
    pytest.param(kind, hint, id=f"{cls.__module__}.{cls.__name__}.{address}")
    for cls in configurations()
    for name, field in get_type_hints(cls, include_extras=True).items()
    for address, kind, hint in numbers(field, name)
]


def test_every_configuration_is_looked_at():
    looked = {cls.__module__ for cls in configurations()}
    assert {"stages.teacher", "stages.distillers.tdm", "stages.training.budget", "flows.project.resources"} <= looked
    assert len(FIELDS) > 100


@pytest.mark.parametrize(("kind", "hint"), FIELDS)
def test_a_number_has_a_range(kind, hint):
    adapter = pydantic.TypeAdapter(hint)
    for value in BEYOND[kind]:
        with pytest.raises(pydantic.ValidationError):
            adapter.validate_python(value)


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1])
def test_a_seed_has_64_bits(seed):
    assert pydantic.TypeAdapter(Seed).validate_python(seed, strict=True) == seed


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "abc", "1", True, None])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(pydantic.ValidationError):
        pydantic.TypeAdapter(Seed).validate_python(seed, strict=True)
