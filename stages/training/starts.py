"""What the teacher of a distillation arm, and the model that its student begins as, have to be for the arm's words."""

from typing import Any

from stages.core.coarse import divides
from stages.core.messages import at, together
from stages.io.expected import Expected
from stages.io.job import Job
from stages.models.sketch import Sketch
from stages.samplers import of_tokens
from stages.samplers.distillation_plus import OF_METHODS
from stages.samplers.flow_map import OF_AVERAGES
from stages.training.arm import Arm
from stages.training.method import Trained, goes_on, noising_of


def suits(cfg: Arm[Any], job: Job, teacher: Expected | None, init: Expected | None) -> None:
    """ValueError, a line a fault; nothing is known of a model that is None."""
    together(
        lambda: cfg.common.sampler and _has_a_rule(cfg, job),
        lambda: init and _has_the_times(cfg, job, init),
        lambda: _has_company(cfg, job, teacher),
        lambda: teacher and init and _is_told(cfg, job, teacher, init),
        lambda: init and _may_be_fresh(cfg, job, init),
        lambda: init and _may_be_several(cfg, job, init),
        lambda: init and goes_on(cfg.method, cfg.settings) and _is_a_student(cfg, job, init),
    )


def _has_a_rule(cfg: Arm[Any], job: Job) -> None:
    with at(f"{job.where}.sampler"):
        of_tokens.suits(cfg.common.sampler.rule, noising_of(cfg.method))


def can_blend(cfg: Arm[Any], job: Job, student: Sketch, teacher: Sketch) -> None:
    """ValueError where the method moves weights between networks of other sizes than each other's."""
    roles = cfg.method.roles(cfg.settings)
    pairs = [(blend.of, blend.into) for phase in cfg.method.phases(cfg.settings) for blend in phase.blends]
    for of, into in pairs:
        if len({getattr(roles[name], "start", None) for name in (of, into)}) > 1 and student.sizes != teacher.sizes:
            raise ValueError(
                f"{job.where}.method={cfg.name}: it moves the weights of its {into} towards those of its {of}, and the "
                "student's network is not of the teacher's size; switch that off, or start from the teacher"
            )


def _is_a_student(cfg: Arm[Any], job: Job, init: Expected) -> None:
    if not init.is_student:
        raise ValueError(
            f"{job.where}.init={cfg.common.init}: {cfg.name} goes on from a student of its kind, and this is none; "
            "name the folder of an arm that makes one"
        )


def _has_the_times(cfg: Arm[Any], job: Job, init: Expected) -> None:
    student, rule = _student_of(cfg), cfg.common.sampler and cfg.common.sampler.rule.name
    if (what := student.told_more) and init.model == "checkpoint":
        raise ValueError(
            f"{job.where}.method={cfg.name}: it trains a network {what}, and {cfg.common.init} is a checkpoint, "
            "whose pipeline has no word for that; take a method of one time, one velocity and no noise"
        )
    if init.is_told and not cfg.common.fresh and _becomes_another(cfg):
        fault = "may be told pictures, and stays one network of velocities; set fresh to true, or name another"
        raise ValueError(f"{job.where}.init={cfg.common.init}: {fault}")
    if rule == "ddgan" and not student.latent_variable:
        raise ValueError(
            f"{job.where}.sampler.rule=ddgan: {cfg.name} trains a network that is told no noise; take another rule, or "
            "a method whose student is, such as ddgan"
        )
    if rule in OF_AVERAGES and not student.averages:
        raise ValueError(
            f"{job.where}.sampler.rule={rule}: {cfg.name} trains a network of one time; take another rule, or a "
            "method of two times, such as meanflow"
        )


def _has_company(cfg: Arm[Any], job: Job, teacher: Expected | None) -> None:
    """ValueError where a sampler asks for another network than the student carries, or where it can carry none."""
    common, own = cfg.common, _student_of(cfg).companion
    word = f"{job.where}.companion=teacher"
    if common.companion and own:
        raise ValueError(f"{word}: {cfg.name} trains a network that the student carries; set it to null")
    if common.companion and (noising_of(cfg.method) or common.num_students > 1):
        raise ValueError(f"{word}: the student is one network of velocities then, and this is none; set it to null")
    if common.companion and teacher and teacher.model in ("closed form", "checkpoint"):
        fault = f"{common.teacher} is a {teacher.model}, and only networks that are trained here are carried"
        raise ValueError(f"{word}: {fault}; set it to null")
    if common.companion and teacher and teacher.is_told:
        raise ValueError(f"{word}: {common.teacher} is told pictures, and a companion is told none; set it to null")
    rule = common.sampler and common.sampler.rule.name
    if common.sampler and common.sampler.asks_beside and not (common.companion or own):
        raise ValueError(
            f"{job.where}.sampler: it asks another network too, and the student carries none; set companion: teacher "
            "beside it"
        )
    if rule in OF_METHODS and rule != cfg.name:
        raise ValueError(f"{job.where}.sampler.rule={rule}: for students of the method {rule} alone")
    if own and rule == "distillation_plus":
        raise ValueError(f"{job.where}.sampler.rule={rule}: what a student of {cfg.name} carries is no teacher")


def _is_told(cfg: Arm[Any], job: Job, teacher: Expected, init: Expected) -> None:
    """ValueError where the method tells networks pictures that are told none."""
    told = getattr(cfg.settings, "told", None)
    if told and (cfg.common.fresh or not (teacher.is_told and init.is_told)):
        raise ValueError(
            f"{job.where}.told: its teacher and what its student begins as have to be told pictures; take "
            "teacher=restoration, start from it or from its students, or set this to null"
        )
    if told and init.sketch:
        with at(f"{job.where}.told"):
            divides(told.factor, init.sketch.shape)


def _becomes_another(cfg: Arm[Any]) -> bool:
    """Whether the student is made into what one that is told pictures cannot be."""
    student = _student_of(cfg)
    return bool(student.policy or student.negative_reader or cfg.common.num_students > 1)


def _may_be_fresh(cfg: Arm[Any], job: Job, init: Expected) -> None:
    common = cfg.common
    if common.fresh and init.model == "checkpoint":
        fault = f"a checkpoint's students have its network, and {common.init} is made of one; set it to false"
        raise ValueError(f"{job.where}.fresh: {fault}")
    if (common.fresh or init.model == "closed form") and _student_of(cfg).part:
        word, what = ("fresh", "a new network") if common.fresh else (f"init={common.init}", "a closed form")
        raise ValueError(
            f"{job.where}.{word}: {cfg.name} trains a part alone, beside a network that knows the data, and {what} has "
            "none; start from a model that was trained"
        )


def _may_be_several(cfg: Arm[Any], job: Job, init: Expected) -> None:
    word = f"{job.where}.num_students={cfg.common.num_students}"
    if cfg.common.num_students == 1:
        return
    if init.model == "checkpoint":
        raise ValueError(
            f"{word}: a checkpoint's pipeline, and an adapter's, asks one network for every prompt; set it to 1, or "
            "train an arm for each part of the prompts"
        )
    if what := _student_of(cfg).told_more:
        raise ValueError(f"{word}: {cfg.name} trains a network {what}, of which there is one; set it to 1")


def _student_of(cfg: Arm[Any]) -> Trained:
    student = cfg.method.roles(cfg.settings)["student"]
    assert isinstance(student, Trained)
    return student
