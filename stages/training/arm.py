"""An arm's section of params.yaml: words that every arm has, and the words of its method, side by side."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, TypeVar

from stages.core.config import check
from stages.core.messages import at, choose, listed, together
from stages.core.types import Run
from stages.io.expected import Outline
from stages.io.job import Job
from stages.models.table import PROMPT, Text
from stages.training.loop import Trainer
from stages.training.method import Method, prompts_of
from stages.training.roles import Start
from stages.training.tune import tuning

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


def has_prompts(made: Arm[Any], job: Job, data: Outline) -> None:
    """ValueError, a line a prompt, where the dataset can have no such prompt as the method names."""
    if data.prompts is None:
        return
    table = dict.fromkeys(["", *data.prompts])
    together(
        *(lambda text=text: choose(table, text, PROMPT, job.where) for text in prompts_of(made.method, made.settings))
    )


def trainer(made: Arm[Any], start: Start, table: Text, job: Job, run: Run) -> Trainer:
    """What trains the arm, whose common words have a `budget` and a `tune`, on networks that read `table`."""
    common = made.common
    with at(job.where):
        start = replace(start, rows=table.rows(prompts_of(made.method, made.settings)))
    return Trainer(
        made.method,
        made.settings,
        common.budget,
        start,
        seed=job.seed,
        device=job.device,
        ranks=run.ranks,
        tuning=tuning(common.tune, job.seed),
    )


def configure(section: Mapping[str, Any], common: type[T], table: Mapping[str, Any], where: str, what: str) -> Arm[T]:
    """`section` split between `common` and the method it names in `table`; ValueError lists every fault.

    A key that neither knows goes to the method, whose message names the keys that it does know.
    """
    shared = {field.name for field in fields(common)}  # type: ignore[arg-type]
    mine = {key: value for key, value in section.items() if key in shared}
    theirs = {key: value for key, value in section.items() if key not in shared}

    def its_method() -> tuple[str, Method, Any]:
        name = section.get("method")
        if not isinstance(name, str):
            raise ValueError(f"{where}.method: missing; name one of {listed(sorted(table))}")
        method = choose(table, name, what, f"{where}.method")
        return name, method, check(method.Config, theirs, where)

    made, (name, method, settings) = together(lambda: check(common, mine, where), its_method)
    return Arm(common=made, name=name, method=method, settings=settings)
