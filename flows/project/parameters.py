"""params.yaml as a whole: its sections, and the names of arms, checked before anything reads one of them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from flows.project.nodes import STAGES, Node, Params, named
from stages.core.config import check, config
from stages.core.messages import brief
from stages.core.ranges import Seed
from stages.io import params, replicates

FILE = Path("params.yaml")
UNREAD = "stages/dataset.py"
"""`raw`, which DVC watches for dataset, where that reads no files; params/config.yaml says the same."""
Section = Mapping[str, Any]


def _counted(arm: Section) -> Section:
    if replicates.WORD not in arm:
        raise ValueError(f"{replicates.WORD} is missing; every parameter is stated in params/")
    told = arm[replicates.WORD]
    if type(told) is not int or told != replicates.count(arm):
        raise ValueError(
            f"{replicates.WORD}={brief(str(told))}: how often it is trained is a whole number, 1 to {replicates.MOST}"
        )
    return arm


def _taught(teacher: Section) -> Section:
    """What is not trained here is not asked how often."""
    what = {"exact": "a closed form", "diffusers": "a checkpoint"}.get(str(teacher.get("kind")))
    if replicates.WORD in teacher and what:
        raise ValueError(f"{replicates.WORD}: {what} is not trained; leave the word out")
    return _counted(teacher) if replicates.WORD in teacher else teacher


def _apart(arms: Mapping[str, Section]) -> Mapping[str, Section]:
    known: dict[str, str] = {}
    for name in arms:
        other = known.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(f"{other} and {name} are one folder where a disk ignores case; rename one")
    return arms


@config
class _Arms:
    arms: Annotated[
        Mapping[
            Annotated[str, AfterValidator(named), AfterValidator(replicates.stated)],
            Annotated[Section, AfterValidator(_counted)],
        ],
        AfterValidator(_apart),
    ]


def _shape(name: str, fields: Mapping[str, Any]) -> Any:
    return config(type(name, (), {"__annotations__": fields, "__module__": __name__}))


_FIELDS: dict[str, Any] = {stage: _Arms if row.arms else Section for stage, row in STAGES.items()}
_FIELDS["teacher"] = Annotated[Section, AfterValidator(_taught)]
_OTHERS = {name: Section for name in ("compute", "storage", "network", "registry")}
_Stages = _shape("_Stages", _FIELDS)
_Whole = _shape("_Whole", _FIELDS | _OTHERS | {"seed": Seed, "raw": str, "trainings": Section})


def read(file: Path = FILE) -> Params:
    """The parameters in `file`; ValueError, a line a fault, where they are not in shape, or were edited by halves."""
    content = checked(params.read(file))
    whole(content)
    return content


def checked(content: Params) -> Params:
    """`content` itself, with every section and arm a mapping, valid names, and a seed; ValueError, a line a fault."""
    check(_Whole, content, "")
    watched = content["dataset"].get("path", UNREAD)
    if content["raw"] != watched:
        raise ValueError(f"raw={brief(content['raw'])}: DVC is to watch what dataset reads, {brief(str(watched))}")
    return content


def whole(content: Params) -> None:
    """ValueError if `content`, in shape, holds other trainings than its arms say: DVC reads the ones, we the others."""
    stated, made = content["trainings"], replicates.trainings(content)
    if stated != made:
        raise ValueError(
            f"{FILE}: trainings is not what its other sections come to; `fewstep compose` writes it, and takes "
            "what is to be changed from params/ and its command line"
        )


def readable(content: Params) -> Iterator[Node]:
    """The nodes whose sections can be read, also where others are out of shape; of several trainings the first."""
    for stage, row in STAGES.items():
        section = content.get(stage)
        if not isinstance(section, Mapping):
            continue
        if not row.arms:
            yield Node(stage)
            continue
        firsts = (name for name in replicates.names(content, stage) if replicates.number(stage, name) == 1)
        for node in (Node(stage, name) for name in filter(_is_name, firsts)):
            if isinstance(node.section(content), Mapping):
                yield node


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
