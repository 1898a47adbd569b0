"""Configurations: frozen typed dataclasses without defaults, checked once at the edge.

YAML states every field, so there is one place to read a value; the class says what is allowed.
"""

import dataclasses
import difflib
import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

import pydantic
from pydantic.dataclasses import dataclass

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(cls: type[T]) -> type[T]:
    """A frozen, keyword-only, strictly typed dataclass that refuses unknown keys."""
    return dataclass(frozen=True, kw_only=True, config=pydantic.ConfigDict(extra="forbid", strict=True))(cls)  # type: ignore[return-value]


def check(cls: type[T], section: Mapping[str, Any], where: str) -> T:
    """An instance of `cls` made from the plain mapping `section`.

    `where` is the section's address in params.yaml ("teacher", "distill.arms.tdm1"); it opens every message.
    Raises ValueError: one line a fault, naming the key, what is wrong and what is valid.
    """
    adapter = pydantic.TypeAdapter(cls)
    try:
        # Through JSON, since that is where the values come from: lists become tuples, 4.5 is no int.
        return adapter.validate_json(json.dumps(dict(section)), strict=True)
    except pydantic.ValidationError as error:
        faults = [_explain(fault, cls) for fault in error.errors(include_url=False)]
        raise ValueError("\n".join(f"{where}.{fault}" for fault in faults)) from None


def _explain(fault: Any, cls: Any) -> str:
    address = ".".join(str(part) for part in fault["loc"])
    match fault["type"]:
        case "unexpected_keyword_argument":
            valid = _fields(cls, fault["loc"][:-1])
            close = difflib.get_close_matches(str(fault["loc"][-1]), valid, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"valid keys: {', '.join(valid)}"
            return f"{address}: unknown parameter; {hint}"
        case "missing_argument" | "missing":
            return f"{address}: missing; every parameter is stated in params/"
        case _:
            return f"{address}: {fault['msg']} (got {fault['input']!r})"


def _fields(cls: Any, loc: tuple[Any, ...]) -> list[str]:
    """The valid keys at `loc` of `cls`; a union's members stand in `loc` by their tags."""
    for step in loc:
        cls = get_type_hints(cls).get(step) if dataclasses.is_dataclass(cls) else _member(cls, step)
    return [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []


def _member(union: Any, tag: Any) -> Any:
    union = get_args(union)[0] if get_origin(union) is Annotated else union
    tags = {value: m for m in get_args(union) for hint in get_type_hints(m).values() for value in get_args(hint)}
    return tags.get(tag)


def choose(table: Mapping[str, T], name: str, what: str, where: str) -> T:
    """`table[name]`, or a ValueError that lists the valid names and the closest one."""
    if name in table:
        return table[name]
    close = difflib.get_close_matches(name, table, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{where}: no {what} is called {name!r}{hint} Valid: {', '.join(sorted(table))}")
