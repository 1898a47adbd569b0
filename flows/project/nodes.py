"""The one table of stages: what each reads, and whether it has arms."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stages.core.messages import brief, join, listed, shown
from stages.io import replicates

Params = Mapping[str, Any]
DATA = Path("data")
LINEAGE = DATA / "lineage"
NAME = r"^[A-Za-z][A-Za-z0-9_-]{0,63}$"
"""What an arm may be called: it becomes a parameter's address, a folder, DVC's target, a URL's part, MLflow's model."""


def named(text: object) -> str:
    """`text`, if an arm may be called so; ValueError states the rule."""
    if isinstance(text, str) and re.fullmatch(NAME, text):
        return text
    raise ValueError(
        f"{shown(text)} is no arm's name: one is a letter of A-Z or a-z, then at most 63 of those, 0-9, _ and -"
    )


@dataclass(frozen=True)
class Node:
    """One execution of the pipeline: a stage, or one training of an arm of it."""

    stage: str
    arm: str | None = None
    """The arm, or a replicate as `stages/io/replicates.py` calls it: tdm1, tdm1-r2; of a stage without arms r2."""

    def __post_init__(self) -> None:
        if self.arm is not None:
            named(self.arm)

    @property
    def where(self) -> str:
        """The address of its section in params.yaml."""
        armed = self.arm is not None and STAGES[self.stage].arms
        return join(self.stage, "arms", replicates.split(str(self.arm))[0]) if armed else self.stage

    @property
    def name(self) -> str:
        """As DVC writes it: teacher, teacher-replicates@r2, distill@tdm1, distill@tdm1-r2."""
        return replicates.node_name(self.stage, self.arm)

    @property
    def folder(self) -> str:
        """The artefact's folder, from the project's root."""
        return (DATA / replicates.group_of(self.stage, self.arm) / (self.arm or "")).as_posix()

    @property
    def lineage(self) -> Path:
        """Who made the artefact, when and where."""
        return LINEAGE / f"{self.name}.json"

    def section(self, params: Params) -> Mapping[str, Any]:
        """Its part of params.yaml; of an arm, with inputs that are this training's own."""
        return replicates.section(params, self.stage, self.arm)

    def seed(self, params: Params) -> int:
        """What its random numbers come from."""
        return replicates.seed_of(params["seed"], replicates.number(self.stage, self.arm))

    @classmethod
    def of_folder(cls, folder: str) -> "Node":
        """The maker of an artefact's folder; ValueError if no stage makes it."""
        match folder.split("/"):
            case [DATA.name, stage] if stage in STAGES and not STAGES[stage].arms:
                return cls(stage)
            case [DATA.name, group, arm] if group in GROUPS:
                return cls(GROUPS[group], arm)
        raise ValueError(f"{brief(folder)}: no stage makes this; inputs are data/<stage> or data/<stage>/<arm>")

    @classmethod
    def parse(cls, name: str) -> "Node":
        """From DVC's name; ValueError if there is no such stage."""
        stage, _, arm = name.partition("@")
        if arm and stage in GROUPS:
            return cls(GROUPS[stage], arm)
        if stage not in STAGES:
            raise ValueError(f"no stage is called {shown(stage)}; valid: {listed(STAGES)}")
        if STAGES[stage].arms or arm:
            short = brief(name)
            raise ValueError(f"{short}: name one arm, {stage}@<arm>" if not arm else f"{short}: {stage} has no arms")
        return cls(stage)


@dataclass(frozen=True)
class Stage:
    """A row of the table."""

    inputs: Callable[[Params, str | None], Mapping[str, str]]
    """Name of the input, as the stage's code knows it -> folder."""
    arms: bool = False
    context: Callable[[Params], Mapping[str, Any]] = lambda _: {}
    """What else of the parameters the result depends on."""


def _fixed(*stages: str) -> Callable[[Params, str | None], Mapping[str, str]]:
    """What a stage without arms reads; its replicate, of each of these its own."""
    return lambda _params, arm: {
        stage: Node(stage, arm if stage in replicates.TAUGHT else None).folder for stage in stages
    }


def _distill(params: Params, arm: str | None) -> Mapping[str, str]:
    return _shared(params, Node("distill", arm), "dataset") | _read(params, Node("distill", arm))


def _rl(params: Params, arm: str | None) -> Mapping[str, str]:
    return _shared(params, Node("rl", arm), "dataset", "verifier") | _read(params, Node("rl", arm))


def _shared(params: Params, node: "Node", *stages: str) -> dict[str, str]:
    """What a training reads that its section does not name."""
    return {stage: f"data/{stage}" for stage in stages} | {"encode": replicates.table_of(params, node.stage, node.arm)}


def _read(params: Params, node: "Node") -> dict[str, str]:
    """What its section names."""
    section = node.section(params)
    if node.stage == "distill":
        return {name: section[name] for name in replicates.INPUTS}
    apart = {"teacher": section["teacher"]} if section.get("teacher") is not None else {}
    return {"init": section["init"]} | apart


def _evaluate(params: Params, _arm: str | None) -> Mapping[str, str]:
    fixed = {name: f"data/{name}" for name in ("dataset", "verifier", "teacher", "encode", "reflow")}
    read = (node for node in trainings(params) if STAGES[node.stage].arms or node.stage in ("teacher", "encode"))
    return fixed | {f"{node.stage}/{node.arm}": node.folder for node in read}


def trainings(params: Params) -> Iterator[Node]:
    """Every training of every arm that the parameters name, and the further ones of what has no arms."""
    for stage in STAGES:
        yield from (Node(stage, name) for name in replicates.names(params, stage))


def arms(params: Params) -> Iterator[Node]:
    """Every training of every arm that the parameters name."""
    return (node for node in trainings(params) if STAGES[node.stage].arms)


def _named_arms(params: Params) -> Mapping[str, Any]:
    found: dict[str, dict[str, Any]] = {stage: {} for stage, row in STAGES.items() if row.arms}
    for node in arms(params):
        found[node.stage][str(node.arm)] = node.section(params)
    return found


STAGES: Mapping[str, Stage] = MappingProxyType(
    {
        "dataset": Stage(_fixed()),
        "verifier": Stage(_fixed("dataset")),
        "teacher": Stage(_fixed("dataset")),
        "encode": Stage(_fixed("dataset", "teacher")),
        "trajectories": Stage(_fixed("dataset", "teacher", "encode")),
        "reflow": Stage(_fixed("dataset", "teacher", "encode", "trajectories")),
        "distill": Stage(_distill, arms=True),
        "rl": Stage(_rl, arms=True),
        "evaluate": Stage(_evaluate, context=_named_arms),
    }
)

GROUPS: Mapping[str, str] = MappingProxyType(
    {stage: stage for stage in replicates.ARMED} | {stage + replicates.GROUP: stage for stage in replicates.TAUGHT}
)
"""What DVC has before an @, and its folder in data/ -> the stage."""
