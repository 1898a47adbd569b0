"""Configurations: frozen typed dataclasses without defaults, checked once at the edge.

YAML states every field, so there is one place to read a value; the class says what is allowed.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from functools import cache
from types import NoneType
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints

import pydantic
from pydantic.dataclasses import dataclass

from stages.core.messages import brief, join, listed, nearest, shown

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config(cls: type[T]) -> type[T]:
    """A frozen, keyword-only, strictly typed dataclass that refuses unknown keys."""
    return dataclass(frozen=True, kw_only=True, config=pydantic.ConfigDict(extra="forbid", strict=True))(cls)  # type: ignore[return-value]


def check(cls: type[T], section: object, where: str) -> T:
    """An instance of `cls` made from `section`, a plain mapping.

    `where` is the section's address in params.yaml ("teacher", "distill.arms.tdm1", "" for all of it); it opens every
    message. Raises ValueError: one line a fault.
    """
    if not isinstance(section, Mapping):
        raise ValueError(f"{where}: should be a mapping of parameters (got {shown(section)})")
    faults = list(_not_plain(section, where))
    try:
        # Through JSON, since that is where the values come from: lists become tuples, 4.5 is no int.
        made = _adapter(cls).validate_json(json.dumps(dict(section), default=str, skipkeys=True), strict=True)
    except pydantic.ValidationError as error:
        faults += [_explain(fault, cls, where) for fault in error.errors(include_url=False)]
    else:
        if not faults:
            return made
    raise ValueError("\n".join(dict.fromkeys(faults)))


@cache
def _adapter(cls: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(cls)  # which takes milliseconds, and a search over samplers checks thousands


def _not_plain(value: object, where: str) -> Iterator[str]:
    """Faults of what YAML can write and JSON cannot, and of what Hydra leaves open."""
    match value:
        case Mapping():
            for key, below in value.items():
                if not isinstance(key, str):
                    yield f"{join(where, key)}: the key {shown(key)} is no text; write it in quotes"
                yield from _not_plain(below, join(where, key))
        case list() | tuple():
            for index, below in enumerate(value):
                yield from _not_plain(below, join(where, index))
        case "???":
            yield f"{where}: missing; say {where}=... on the command line, or state it in params/"
        case None | bool() | int() | float() | str():
            pass
        case _:
            yield f"{where}: {brief(str(value))} is a {type(value).__name__}; if a text is meant, write it in quotes"


def _explain(fault: Any, cls: Any, where: str) -> str:
    keys, kind = _follow(cls, fault["loc"])
    address, input_ = join(where, *keys), shown(fault["input"])
    match fault["type"]:
        case "unexpected_keyword_argument":
            known = [field.name for field in dataclasses.fields(_follow(cls, fault["loc"][:-1])[1])]
            close = nearest(str(keys[-1]), known)
            text = f"unknown parameter; {f'did you mean {close!r}?' if close else f'valid keys: {listed(known)}'}"
        case "missing_argument" | "missing":
            text = "missing; every parameter is stated in params/"
        case "union_tag_not_found":
            address = join(address, _tag(fault))
            text = f"missing; name one of {listed(members(kind))}"
        case "union_tag_invalid":
            address = join(address, _tag(fault))
            tag, known = fault["ctx"]["tag"], members(kind)
            close = nearest(tag, known)
            text = f"{shown(tag)} is none of {listed(known)}" + (f"; did you mean {close!r}?" if close else "")
        case "dataclass_type" | "dict_type" | "mapping_type" | "model_attributes_type":
            text = f"should be a mapping of parameters (got {input_})"
        case "value_error":
            text = str(fault["ctx"]["error"])
        case _:
            text = f"{fault['msg']} (got {input_})"
    return "\n".join(f"{address}: {line}" if address else line for line in text.splitlines())


def _tag(fault: Any) -> str:
    return fault["ctx"]["discriminator"].strip("'")


def _follow(cls: Any, loc: tuple[Any, ...]) -> tuple[list[Any], Any]:
    """The address of `loc`, and the type there. A member of a union stands in `loc` by its tag, which is no key."""
    keys = []
    for step in loc:
        tagged = members(cls)
        if step == "[key]":
            continue
        if tagged:
            cls = tagged.get(step)
            continue
        keys.append(step)
        bare = _bare(cls)
        if dataclasses.is_dataclass(bare):
            cls = get_type_hints(bare, include_extras=True).get(step)
        else:  # a mapping's values, or a sequence's
            cls = next((each for each in reversed(get_args(bare)) if each is not Ellipsis), None)
    return keys, cls if members(cls) else _bare(cls)


def _bare(cls: Any) -> Any:
    """Without what is said beside the type, and without None."""
    while get_origin(cls) is Annotated:
        cls = get_args(cls)[0]
    others = [each for each in get_args(cls) if each is not NoneType]
    return _bare(others[0]) if NoneType in get_args(cls) and len(others) == 1 else cls


def members(cls: Any) -> Mapping[str, Any]:
    """Tag -> member, of a union with a discriminator, be it with None; empty for any other type."""
    others = [each for each in get_args(cls) if each is not NoneType]
    if NoneType in get_args(cls) and len(others) == 1:
        cls = others[0]
    if get_origin(cls) is not Annotated:
        return {}
    union, *beside = get_args(cls)
    name = next((each.discriminator for each in beside if getattr(each, "discriminator", None)), None)
    if name is None:
        return {}
    return {tag: member for member in get_args(union) for tag in get_args(get_type_hints(member)[name])}
