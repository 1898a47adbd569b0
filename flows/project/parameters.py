"""params.yaml as a whole: its sections, and the names of arms, checked before anything reads one of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from flows.project.nodes import STAGES, Node, Params, named
from stages.core.config import check, config
from stages.core.ranges import Seed
from stages.io import params

FILE = Path("params.yaml")
Section = Mapping[str, Any]


def _apart(arms: Mapping[str, Section]) -> Mapping[str, Section]:
    known: dict[str, str] = {}
    for name in arms:
        other = known.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(f"{other} and {name} are one folder where a disk ignores case; rename one")
    return arms


@config
class _Arms:
    arms: Annotated[Mapping[Annotated[str, AfterValidator(named)], Section], AfterValidator(_apart)]


def _shape(name: str, fields: Mapping[str, Any]) -> Any:
    return config(type(name, (), {"__annotations__": fields, "__module__": __name__}))


_FIELDS = {stage: _Arms if row.arms else Section for stage, row in STAGES.items()}
_OTHERS = {name: Section for name in ("compute", "storage", "network", "registry")}
_Stages = _shape("_Stages", _FIELDS)
_Whole = _shape("_Whole", _FIELDS | _OTHERS | {"seed": Seed})


def read(file: Path = FILE) -> Params:
    """The parameters in `file`; ValueError, a line a fault, where they are not in shape."""
    return checked(params.read(file))


def checked(content: Params) -> Params:
    """`content` itself, with every section and arm a mapping, valid names, and a seed; ValueError, a line a fault."""
    check(_Whole, content, "")
    return content


def readable(content: Params) -> Iterator[Node]:
    """The nodes whose sections can be read, also where others are out of shape."""
    for stage, row in STAGES.items():
        section = content.get(stage)
        if not isinstance(section, Mapping):
            continue
        if not row.arms:
            yield Node(stage)
        elif isinstance(section.get("arms"), Mapping):
            for arm, own in section["arms"].items():
                if isinstance(own, Mapping) and _is_name(arm):
                    yield Node(stage, arm)


def has_graph(content: Params) -> bool:
    """Whether the sections that the graph is made of are in shape, whatever the others are."""
    try:
        check(_Stages, {stage: content.get(stage) for stage in STAGES}, "")
    except ValueError:
        return False
    return True


def _is_name(text: object) -> bool:
    try:
        return bool(named(text))
    except ValueError:
        return False
