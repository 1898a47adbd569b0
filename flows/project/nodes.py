"""The one table of stages: what each reads, and whether it has arms."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from stages.core.messages import brief, join, listed, shown

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
    """One execution of the pipeline: a stage, or one arm of it."""

    stage: str
    arm: str | None = None

    def __post_init__(self) -> None:
        if self.arm is not None:
            named(self.arm)

    @property
    def where(self) -> str:
        """The address of its section in params.yaml."""
        return self.stage if self.arm is None else join(self.stage, "arms", self.arm)

    @property
    def name(self) -> str:
        """As DVC writes it: teacher, distill@tdm1."""
        return self.stage if self.arm is None else f"{self.stage}@{self.arm}"

    @property
    def folder(self) -> str:
        """The artefact's folder, from the project's root."""
        return (DATA / self.stage / (self.arm or "")).as_posix()

    @property
    def lineage(self) -> Path:
        """Who made the artefact, when and where."""
        return LINEAGE / f"{self.name}.json"

    def section(self, params: Params) -> Mapping[str, Any]:
        """Its part of params.yaml."""
        return params[self.stage] if self.arm is None else params[self.stage]["arms"][self.arm]

    @classmethod
    def of_folder(cls, folder: str) -> "Node":
        """The maker of an artefact's folder; ValueError if no stage makes it."""
        parts = folder.split("/")
        if parts[0] == DATA.name and parts[1:2] and parts[1] in STAGES and len(parts) == 2 + STAGES[parts[1]].arms:
            return cls(parts[1], parts[2] if len(parts) > 2 else None)
        raise ValueError(f"{brief(folder)}: no stage makes this; inputs are data/<stage> or data/<stage>/<arm>")

    @classmethod
    def parse(cls, name: str) -> "Node":
        """From DVC's name; ValueError if there is no such stage."""
        stage, _, arm = name.partition("@")
        if stage not in STAGES:
            raise ValueError(f"no stage is called {shown(stage)}; valid: {listed(STAGES)}")
        if STAGES[stage].arms != bool(arm):
            short = brief(name)
            raise ValueError(f"{short}: name one arm, {stage}@<arm>" if not arm else f"{short}: {stage} has no arms")
        return cls(stage, arm or None)


@dataclass(frozen=True)
class Stage:
    """A row of the table."""

    inputs: Callable[[Params, str | None], Mapping[str, str]]
    """Name of the input, as the stage's code knows it -> folder."""
    arms: bool = False
    context: Callable[[Params], Mapping[str, Any]] = lambda _: {}
    """What else of the parameters the result depends on."""


def _fixed(*stages: str) -> Callable[[Params, str | None], Mapping[str, str]]:
    return lambda _params, _arm: {stage: f"data/{stage}" for stage in stages}


def _distill(params: Params, arm: str | None) -> Mapping[str, str]:
    section = params["distill"]["arms"][arm]
    fixed = {name: f"data/{name}" for name in ("dataset", "encode")}
    return fixed | {name: section[name] for name in ("teacher", "init", "data")}


def _rl(params: Params, arm: str | None) -> Mapping[str, str]:
    section = params["rl"]["arms"][arm]
    fixed = {name: f"data/{name}" for name in ("dataset", "verifier", "encode")}
    return fixed | {"init": section["init"]}


def _evaluate(params: Params, _arm: str | None) -> Mapping[str, str]:
    fixed = {name: f"data/{name}" for name in ("dataset", "verifier", "teacher", "encode", "reflow")}
    return fixed | {f"{node.stage}/{node.arm}": node.folder for node in arms(params)}


def arms(params: Params) -> Iterator[Node]:
    """Every arm that the parameters name."""
    for stage, row in STAGES.items():
        if row.arms:
            yield from (Node(stage, arm) for arm in params[stage]["arms"])


def _named_arms(params: Params) -> Mapping[str, Any]:
    return {stage: params[stage]["arms"] for stage, row in STAGES.items() if row.arms}


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
