"""Replicates: an arm that says `replicates: n` is trained n times, each time from a seed of its own; so is the teacher.

Each training is a node: DVC caches it by itself, and it runs beside the others. The first has the arm's own name and
the experiment's own seed, so that it is what it would be alone; `tdm1-r2` is the second of `tdm1`. What has no arms has
its further trainings in a group of their own, `teacher-replicates@r2`, and with a teacher goes all that is made of it
before there are arms. Composing writes them all to the section `trainings` of params.yaml, which dvc.yaml reads. Of
`replicates` nothing is in there, so that to raise it makes the new ones only.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from stages.core.hashing import sha256
from stages.io import sources

Params = Mapping[str, Any]
Sections = Callable[[str, str], Any]
"""A training's section, of its stage and its name; None if there is no such training."""
ARMED = ("distill", "rl")
"""Stages that have arms."""
TAUGHT = ("teacher", "encode", "trajectories", "reflow")
"""The teacher, and what is made of each teacher by itself."""
INPUTS = ("teacher", "init", "data")
"""Words of an arm that name an artefact's folder."""
WORD = "replicates"
MOST = 99
GROUP = f"-{WORD}"
"""Behind the name of a stage without arms: the group of its further trainings."""
WATCHED: Mapping[str, int] = MappingProxyType({"rl": 4, "evaluate": 8})
"""Stages with rewards or metrics -> places in dvc.yaml for what these read."""
_REPLICATE = re.compile(r"(.+)-r([0-9]+)")
_FURTHER = re.compile(r"r([0-9]+)")


def named(arm: str, replicate: int) -> str:
    """What a training is called: tdm1, tdm1-r2, tdm1-r3."""
    return arm if replicate == 1 else f"{arm}-r{replicate}"


def split(name: str) -> tuple[str, int]:
    """The other way: arm and replicate."""
    match = _REPLICATE.fullmatch(name)
    return (match[1], int(match[2])) if match else (name, 1)


def stated(arm: str) -> str:
    """`arm`, if params/ may call one so; ValueError if that is how a replicate is called."""
    if split(arm)[0] != arm:
        raise ValueError("a name that ends in -r and a number is a replicate's; call it something else")
    return arm


def group_of(stage: str, arm: str | None) -> str:
    """What DVC calls the stage, before the @, and its folder in data/."""
    return stage if arm is None or stage in ARMED else stage + GROUP


def node_name(stage: str, arm: str | None) -> str:
    """As DVC writes it: teacher, teacher-replicates@r2, distill@tdm1, distill@tdm1-r2."""
    return stage if arm is None else f"{group_of(stage, arm)}@{arm}"


def number(stage: str, arm: str | None) -> int:
    """Which of its trainings a node is, from 1 on."""
    if arm is None:
        return 1
    match = _FURTHER.fullmatch(arm)
    return split(arm)[1] if stage in ARMED else int(match[1]) if match else 1


def seed_of(seed: Any, replicate: int) -> Any:
    """A training's: the experiment's own for the first."""
    return seed if replicate == 1 else int(sha256(f"{seed}/{replicate}".encode())[:13], 16)


def count(section: object) -> int:
    """How often an arm is trained; 1 where its section says nothing that can be (the check of parameters tells)."""
    told = section.get(WORD) if isinstance(section, Mapping) else None
    return told if type(told) is int and 1 <= told <= MOST else 1


def names(params: Params, stage: str) -> list[str]:
    """Every training of `stage`, those of an arm in turn; of a stage without arms, the further ones: r2, r3."""
    if stage in ARMED:
        return [named(arm, i) for arm, own in _arms(params, stage).items() for i in range(1, count(own) + 1)]
    return [f"r{i}" for i in range(2, count(params.get("teacher")) + 1)] if stage in TAUGHT else []


def section(params: Params, stage: str, name: str | None) -> Any:
    """A node's parameters; an arm's, with inputs that are this training's own. KeyError if there is no such training.

    Where an input is trained as often, the i-th training reads its i-th, else its first.
    """
    if stage not in ARMED:
        if name is not None and name not in names(params, stage):
            raise KeyError(name)
        return _without(params.get(stage)) if stage == "teacher" else params.get(stage)
    arms = _arms(params, stage)
    arm, replicate = (str(name), 1) if name in arms else split(str(name))
    own = arms[arm]
    if replicate > count(own):
        raise KeyError(name)
    if not isinstance(own, Mapping):
        return own
    stated = [word for word in INPUTS if own.get(word) is not None]
    return _without(own) | {word: of_its_own(params, own[word], replicate) for word in stated}


def trainings(params: Params) -> dict[str, Any]:
    """What dvc.yaml is made from: a seed and a section for each training, by stage or group, and by name."""

    def told(stage: str, name: str | None) -> dict[str, Any]:
        own = section(params, stage, name)
        return {"seed": seed_of(params["seed"], number(stage, name)), "section": own} | _watched(stage, own)

    made: dict[str, Any] = {"teacher": told("teacher", None), "evaluate": _watched("evaluate", params.get("evaluate"))}
    made |= {
        stage: {name: {**told(stage, name), "encode": table_of(params, stage, name)} for name in names(params, stage)}
        for stage in ARMED
    }
    for one in made["rl"].values():
        one["teacher"] = _teacher(one["section"])
    return made | {stage + GROUP: {name: told(stage, name) for name in names(params, stage)} for stage in TAUGHT}


def _teacher(own: Any) -> Any:
    """The folder of the model that an arm learns from: where it states none, what it starts from."""
    return (own.get("teacher") or own.get("init")) if isinstance(own, Mapping) else None


def _watched(stage: str, own: Any) -> dict[str, list[str]]:
    """What else DVC is to watch: folders of pretrained weights, in as many places as dvc.yaml has for them."""
    return {"watched": sources.watched(own, WATCHED[stage], f"stages/{stage}.py")} if stage in WATCHED else {}


def teachers(folder: object, sections: Sections) -> frozenset[int]:
    """Which of the teachers the model in `folder` descends from, 1 being the first; none where nothing tells."""

    def of(folder: object, below: frozenset[object]) -> frozenset[int]:
        match folder.split("/") if isinstance(folder, str) and folder not in below else []:
            case ["data", stage] if stage in TAUGHT:
                return frozenset({1})
            case ["data", group, name] if group.removesuffix(GROUP) in TAUGHT:
                return frozenset({number(group.removesuffix(GROUP), name)})
            case ["data", stage, name] if stage in ARMED:
                own = sections(stage, name)
                made_of = [own[word] for word in ("teacher", "init") if word in own] if isinstance(own, Mapping) else []
                return frozenset().union(*(of(each, below | {folder}) for each in made_of))
        return frozenset()

    return of(folder, frozenset())


def table_of(params: Params, stage: str, name: str | None) -> str:
    """The folder of the text table by which a training reads prompts: its own teacher's."""
    return of_its_own(params, "data/encode", min(teachers(f"data/{stage}/{name}", _sections(params)), default=1))


def faults(params: Params) -> Iterator[str]:
    """Of arms: inputs that are trained several times but not as often, or that no one teacher made."""
    yield from _uneven(params)
    sections = _sections(params)
    for stage, name in [(armed, name) for armed in ARMED for name in names(params, armed)]:
        own = sections(stage, name)
        made_of = (
            [teachers(own.get(word), sections) for word in ("teacher", "init")] if isinstance(own, Mapping) else []
        )
        if len(frozenset().union(*made_of)) > 1 and all(len(each) == 1 for each in made_of):
            yield (
                f"{stage}.arms.{split(name)[0]}: its teacher and its init descend from different teachers, which read "
                "prompts by different text tables; train what it starts from as often as the teacher, or this arm once"
            )


def _sections(params: Params) -> Sections:
    known = {stage: set(names(params, stage)) for stage in ARMED}
    return lambda stage, name: section(params, stage, name) if name in known[stage] else None


def _uneven(params: Params) -> Iterator[str]:
    for stage in ARMED:
        for arm, own in _arms(params, stage).items():
            for word in (word for word in INPUTS if count(own) > 1 and word in own):
                there = _trained(params, own[word])
                if 1 < there < count(own):
                    yield (
                        f"{stage}.arms.{arm}.{WORD}={count(own)}: its {word}, {own[word]}, is trained {there} times; "
                        f"train that once, for all to share, or at least {count(own)} times, one for each"
                    )


def of_its_own(params: Params, folder: Any, replicate: int) -> Any:
    """An artefact's folder, or that of its maker's replicate if there is one."""
    if replicate == 1 or _trained(params, folder) < replicate:
        return folder
    return f"{folder}{GROUP}/r{replicate}" if folder.count("/") == 1 else f"{folder}-r{replicate}"


def _trained(params: Params, folder: object) -> int:
    """How often the maker of an artefact is trained."""
    match folder.split("/") if isinstance(folder, str) else []:
        case ["data", stage] if stage in TAUGHT:
            return count(params.get("teacher"))
        case ["data", stage, arm] if stage in ARMED:
            return count(_arms(params, stage).get(arm))
    return 1


def _without(own: Any) -> Any:
    return {word: value for word, value in own.items() if word != WORD} if isinstance(own, Mapping) else own


def _arms(params: Params, stage: str) -> Mapping[str, Any]:
    """As they are stated; none where the section is out of shape, which the check of parameters tells."""
    own = params.get(stage)
    arms = own.get("arms") if isinstance(own, Mapping) else None
    return {arm: each for arm, each in arms.items() if isinstance(arm, str)} if isinstance(arms, Mapping) else {}
