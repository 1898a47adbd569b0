"""An arm's section of params.yaml: words that every arm has, and the words of its method, side by side."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

from stages.core.config import check, choose
from stages.training.method import Method

T = TypeVar("T")


@dataclass(frozen=True)
class Arm(Generic[T]):
    """A checked arm."""

    common: T
    name: str
    """The method's name."""
    method: Method
    settings: Any
    """The method's own Config."""


def configure(section: Mapping[str, Any], common: type[T], table: Mapping[str, Any], where: str, what: str) -> Arm[T]:
    """`section` split between `common` and the method it names in `table`; ValueError lists every fault.

    A key that neither knows goes to the method, whose message names the keys that it does know.
    """
    name = section.get("method")
    if not isinstance(name, str):
        raise ValueError(f"{where}.method: missing; name one of {', '.join(sorted(table))}")
    method = choose(table, name, what, f"{where}.method")
    shared = {field.name for field in fields(common)}  # type: ignore[arg-type]
    mine = {key: value for key, value in section.items() if key in shared}
    return Arm(
        common=check(common, mine, where),
        name=name,
        method=method,
        settings=check(method.Config, {key: value for key, value in section.items() if key not in shared}, where),
    )
