"""Which models are measured, and the ways in which each is sampled."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from stages.core.spec import SamplerSpec
from stages.io import replicates
from stages.io.job import Job
from stages.samplers.student import simplest


class Asked(Protocol):
    """What evaluate's configuration says of it."""

    @property
    def teacher_nfe(self) -> Sequence[int]:
        """Numbers of Euler steps at which the teacher is shown."""
        ...

    @property
    def guidance_nfe(self) -> int:
        """Euler steps of the guidance frontier."""
        ...

    @property
    def guidance_scales(self) -> Sequence[float]:
        """Of the guidance frontier."""
        ...

    @property
    def distill_nfe(self) -> Mapping[str, Sequence[int]]:
        """Further numbers of steps of students, by arm."""
        ...

    @property
    def rl_nfe(self) -> int:
        """Euler steps of RL arms that start from the teacher."""
        ...

    @property
    def rl_steps(self) -> Sequence[str]:
        """Further numbers of steps of these, by what they are: `rollout`, `full`."""
        ...


def ways(
    cfg: Asked, job: Job, own_of: Callable[[str], SamplerSpec]
) -> Iterator[tuple[str, str, str, dict[str, Any] | None]]:
    """Group, name, input and sampler of every model in every way that it is sampled; `own_of` an input is its own."""
    scales = sorted(set(cfg.guidance_scales))
    steps = set(cfg.teacher_nfe) | ({cfg.guidance_nfe} if 1.0 in scales else set())
    for source in ("teacher", *(name for name in job.inputs if name.startswith("teacher/"))):
        replicate = replicates.number("teacher", source.partition("/")[2])
        rule = simplest(own_of(source))
        for nfe in sorted(steps, reverse=True):
            yield "teacher", replicates.named(f"nfe{nfe}", replicate), source, even(rule, nfe)
        for scale in (scale for scale in scales if scale != 1):
            yield "guidance", replicates.named(f"w{scale:g}", replicate), source, even(rule, cfg.guidance_nfe, scale)
    for arm in job.context["distill"]:
        yield "distill", arm, f"distill/{arm}", None
        name, replicate = replicates.split(arm)
        if name in cfg.distill_nfe:
            spec = own_of(f"distill/{arm}")
            for nfe in sorted({*cfg.distill_nfe[name]} - {spec.num_steps}):
                called = replicates.named(f"{name}.nfe{nfe}", replicate)
                yield "distill", called, f"distill/{arm}", _in_steps(spec, nfe, name)
    arms = job.context["rl"]
    for arm in arms:
        own = arms[arm]["sampler"] is not None or not _from_teacher(arms, arm)
        yield "rl", arm, f"rl/{arm}", None if own else euler(cfg.rl_nfe)
        for nfe in () if own else sorted(_further(cfg, arms[arm])):
            name, replicate = replicates.split(arm)
            yield "rl", replicates.named(f"{name}.nfe{nfe}", replicate), f"rl/{arm}", euler(nfe)


def euler(nfe: int, guidance: float = 1.0) -> dict[str, Any]:
    """Even Euler steps, as parameters state a sampler."""
    return even({"name": "euler"}, nfe, guidance)


def even(rule: dict[str, Any], nfe: int, guidance: float = 1.0) -> dict[str, Any]:
    """Even steps of a rule, as parameters state a sampler."""
    return {"rule": rule, "schedule": {"name": "uniform", "steps": nfe}, "guidance": guidance}


def _in_steps(own: SamplerSpec, nfe: int, arm: str) -> dict[str, Any]:
    """A student's sampler in another number of steps, as parameters state it."""
    if "steps" not in own.schedule:
        raise ValueError(
            f"evaluate.distill_nfe.{arm}: its student has steps of its own, of the schedule {own.schedule['name']!r}, "
            "and no other number of them; take the arm out"
        )
    more = {"field": own.field} if own.field else {}
    return {"rule": dict(own.rule), "schedule": {**own.schedule, "steps": nfe}, "guidance": own.guidance, **more}


def _further(cfg: Asked, arm: Mapping[str, Any]) -> set[int]:
    """In how many steps an RL arm of the teacher is shown beside `rl_nfe`."""
    own = arm.get("rollout_steps", arm.get("nfe"))  # some roll out in the steps of use, and have no other word
    steps = {"rollout": own, "full": max(cfg.teacher_nfe)}
    return {steps[which] for which in cfg.rl_steps} - {cfg.rl_nfe}


def _from_teacher(arms: Mapping[str, Mapping[str, Any]], arm: str) -> bool:
    """Whether an RL arm starts from the teacher, be it by way of other RL arms."""
    parts = Path(arms[arm]["init"]).parts
    is_teacher = parts[1] in ("teacher", "teacher" + replicates.GROUP)
    return is_teacher or (parts[-2:-1] == ("rl",) and parts[-1] in arms and _from_teacher(arms, parts[-1]))
