"""A few-step student by any method of `stages/distillers`: one arm is one execution of this stage."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from stages.core.config import config
from stages.core.messages import at, together
from stages.core.needs import Needs
from stages.core.ranges import Count
from stages.core.types import Run
from stages.distillers import METHODS
from stages.io.dataset import Dataset
from stages.io.expected import Expected, Inputs, outline
from stages.io.job import Job
from stages.io.pairs import INDEX, Pairs
from stages.io.steps import FILE, Steps
from stages.models import Student, Text, load, samples, sketch, table_of
from stages.models.mixture import GaussianMixture
from stages.models.network import NetworkConfig, seeded_build
from stages.samplers.of_tokens import OfTokens
from stages.samplers.program import program
from stages.samplers.spec import Sampler, calls
from stages.training import arm, data, starts
from stages.training import needs as training
from stages.training.budget import Budget
from stages.training.cost import Cost, Meter
from stages.training.drawn import Draw, drawn, is_best, on_nodes
from stages.training.method import needs_of, noising_of, seen_at
from stages.training.networks import RoleNetwork
from stages.training.outcome import gather, record
from stages.training.roles import Start
from stages.training.tune import Tune, begins, fits, learns, made_of, same_base, tuning


@config
class Common:
    """What every distillation arm states."""

    teacher: str
    """Artefact folder of the model to distil."""
    init: str
    """Artefact folder of the model whose weights the student starts from."""
    data: str
    """Artefact folder of what to train on: data/reflow for pairs, data/dataset for images and prompts."""
    draw: Draw | None
    """For a method that needs pairs: null takes those of `data`, else they are drawn from the teacher. One that needs
    trajectories has them drawn."""
    shuffle_buffer: Count
    """Pairs held in memory, shuffled among each other; while they are used, as many more are read."""
    fresh: bool
    """Whether the student is a new network of the size `network`, in the place of a copy of `init`."""
    network: NetworkConfig
    """The student's size where it is fresh, or where `init` is a closed form and has no weights to start from."""
    num_students: Annotated[int, Field(ge=1, le=1000)]
    """Networks, each for a part of the prompts, that the student and its critics are made of and that are one model in
    use (multi-student distillation, arXiv:2410.23274)."""
    companion: Literal["teacher"] | None
    """What the finished student carries beside itself, for samplers that ask another network too."""
    sampler: Sampler | None
    """Of the finished student; null takes the method's own, which it is trained for if it is trained for one."""
    tune: Tune
    """Which weights of student and critics are trained."""
    batch_size: Count
    budget: Budget

    def __post_init__(self) -> None:
        self.budget.check_slices("batch_size", self.batch_size)
        if self.sampler and not isinstance(self.sampler.rule, OfTokens):
            program(self.sampler.spec)  # which refuses what its folder could not repeat


def configure(job: Job) -> arm.Arm[Common]:
    """The arm's section, checked against the common words and its method's."""
    return arm.configure(job.section, Common, METHODS, job.where, "distillation method")


def expect(cfg: arm.Arm[Common], job: Job, inputs: Inputs) -> Expected | None:
    """A student; None where nothing is known of what it starts from."""
    teacher, init, tune = inputs["teacher"], inputs["init"], cfg.common.tune
    tokens = noising_of(cfg.method)
    together(
        *(lambda name=name: _holds_a_model(cfg.common, job, name, inputs[name]) for name in ("teacher", "init")),
        lambda: _has_data(cfg, job, inputs["data"]),
        lambda: (known := outline(inputs)) and _has_images(cfg, job, known.num_train),
        lambda: (known := outline(inputs)) and arm.has_prompts(cfg, job, known),
        lambda: _has_a_size(cfg.common, job, inputs),
        lambda: learns(tune, job.where, cfg.method, cfg.settings, cfg.common.num_students),
        lambda: teacher and fits(tune, job.where, teacher, tokens),
        lambda: init and begins(tune, job.where, init, tokens),
        lambda: starts.suits(cfg, job, teacher, init),
    )
    made, data = made_of(init, tune), outline(inputs)
    if made and data and (made.sketch is None or cfg.common.fresh):
        shape = made.sketch.shape if made.sketch else data.sample_shape
        made = replace(made, sketch=sketch.trained(cfg.common.network, shape), is_told=False)
    if made and made.sketch and teacher and teacher.sketch:
        starts.can_blend(cfg, job, made.sketch, teacher.sketch)
    if made and made.sketch and cfg.common.num_students > 1:
        made = replace(made, sketch=sketch.divided(made.sketch, cfg.common.num_students))
    return made and replace(made, is_student=True)


def _holds_a_model(common: Common, job: Job, name: str, given: Expected | None) -> None:
    if given and given.model is None:
        raise ValueError(
            f"{job.where}.{name}={getattr(common, name)}: holds no model; name data/teacher, or the folder of an arm"
        )


def _has_data(cfg: arm.Arm[Common], job: Job, given: Expected | None) -> None:
    needs, draw, data = needs_of(cfg.method, cfg.settings), cfg.common.draw, f"{job.where}.data={cfg.common.data}"
    if draw and needs not in ("pairs", "trajectories"):
        raise ValueError(f"{job.where}.draw: {cfg.name} trains on no pairs, none are drawn for it; set it to null")
    if needs == "pairs" and not draw and given and not given.has_pairs:
        raise ValueError(_no_pairs(job, data))
    if needs == "trajectories":
        if draw is None:
            raise ValueError(f"{job.where}.draw: {cfg.name} trains on trajectories; say how they are drawn")
        spec = seen_at(cfg.method, cfg.settings)
        if is_best(spec) and given and given.searched is None:
            raise ValueError(_no_steps(data))
        if given or not is_best(spec):
            draw.has_nodes(spec, given and given.searched, job.where)


def _no_steps(data: str) -> str:
    return f"{data}: no steps were searched for; name data/reflow, and say in reflow.search how to"


def _has_images(cfg: arm.Arm[Common], job: Job, count: int) -> None:
    if needs_of(cfg.method, cfg.settings) == "images" and not count:
        raise ValueError(
            f"{job.where}.method={cfg.name}: it trains on images, and the dataset has prompts alone; bring images to "
            "them, or take a method that needs none"
        )


def _no_pairs(job: Job, source: str) -> str:
    return f"{source}: holds no pairs; name data/reflow, or say in {job.where}.draw how to draw them"


def _has_a_size(common: Common, job: Job, inputs: Inputs) -> None:
    data, init = outline(inputs), inputs["init"]
    if data and init and (common.fresh or init.model == "closed form"):
        with at(f"{job.where}.network"):
            common.network.fit(data.sample_shape)


def needs(cfg: arm.Arm[Common], job: Job, inputs: Inputs, made: Expected) -> Needs | None:
    """Of the training, and of pairs that are drawn for it."""
    common, teacher, init = cfg.common, inputs["teacher"], inputs["init"]
    if made.sketch is None or not (teacher and init):
        return None
    begin = made.sketch if common.fresh else init.sketch or made.sketch
    same = job.inputs["init"] == job.inputs["teacher"] and not common.fresh
    source = begin if same else teacher.sketch or begin
    tuned = tuning(common.tune, job.seed)
    size = {"rows": common.batch_size, "num_students": common.num_students}
    found = training.needs(cfg.method, cfg.settings, common.budget, begin, source, tuned, **size)
    drawn = common.draw.num_pairs * calls(common.draw.sampler.spec) if common.draw else 0
    return replace(found, forward=found.forward + drawn)


def plan(_cfg: arm.Arm[Common], _job: Job) -> list[dict[str, Any]]:
    """One unit."""
    return [{"id": "all"}]


def work(cfg: arm.Arm[Common], job: Job, _unit: Mapping[str, Any], run: Run) -> None:
    """Train the student and save it, with its sampler, to run.out/model."""
    dataset = Dataset.load(job.input("dataset"))
    table = table_of(job.input("encode"), job.device, held=job.held, encode=run.encode)
    teacher = load(job.input("teacher") / "model", table, job.device)
    init = _initial(cfg.common, job, teacher, table)
    if cfg.common.companion:
        with at(f"{job.where}.companion"):
            init.net.may_carry(teacher.net)
    start = Start(init=init.net, teacher=teacher.net, space=init.space, num_students=cfg.common.num_students)
    trainer = arm.trainer(cfg, start, table, job, run)
    meter = Meter(["teacher"])
    source = replace(teacher, net=RoleNetwork(teacher.net, "teacher", meter))
    found = _searched(cfg, job)
    batch_at = _batches(cfg, job, dataset, source, found)
    drawn = Cost.of(meter.names, meter.take(), heads=())
    outcome = trainer.run(batch_at, resume=run.resume, sink=run.sink)
    outcome = replace(outcome, cost=outcome.cost + drawn)
    if cfg.common.companion:
        outcome.student.add_companion(teacher.net)  # type: ignore[operator]
    spec = cfg.common.sampler.spec if cfg.common.sampler else on_nodes(cfg.method.sampler(cfg.settings), found)
    made = replace(init, net=outcome.student, spec=spec)
    record(run.out, outcome, made, None if noising_of(cfg.method) else program(spec))


def finish(_cfg: arm.Arm[Common], _job: Job, parts: Sequence[Path], out: Path) -> Mapping[str, float]:
    """The last losses of training."""
    return gather(parts[0], out)


def _initial(common: Common, job: Job, teacher: Student, table: Text) -> Student:
    """The model to start from, which may be the teacher itself, or a new one in the place of a closed form."""
    same = job.input("init") == job.input("teacher")
    init = teacher if same else load(job.input("init") / "model", table, job.device)
    same_base(job.where, init.net, teacher.net)
    if not (common.fresh or isinstance(init.net, GaussianMixture)):
        return init
    made = seeded_build(job.seed, common.network, init.space.shape, table)
    made.tokens = init.space.noising
    return replace(init, net=made)


def _searched(cfg: arm.Arm[Common], job: Job) -> Steps | None:
    """What the search found, where the student takes its steps from there."""
    if not is_best(cfg.method.sampler(cfg.settings)):
        return None
    folder = job.input("data")
    if not (folder / FILE).is_file():
        raise ValueError(_no_steps(f"{job.where}.data={folder}"))
    return Steps.read(folder)


def _batches(cfg: arm.Arm[Common], job: Job, dataset: Dataset, teacher: Student, found: Steps | None) -> data.BatchAt:
    needs, size, how = needs_of(cfg.method, cfg.settings), cfg.common.batch_size, cfg.common.draw
    if needs == "prompts" and not len(dataset.train_images):
        return data.prompts(dataset, size, job.seed, job.device)
    if needs in ("images", "prompts"):
        _has_images(cfg, job, len(dataset.train_images))
        x0 = samples(job.input("encode"), dataset.train_images, teacher.space, latent=dataset.space == "latents")
        return data.images(dataset, x0, size, job.seed, job.device)
    nodes = how.nodes(seen_at(cfg.method, cfg.settings), found) if how and needs == "trajectories" else ()
    made = drawn(how, job.seed, dataset, teacher, nodes) if how else _stored(job)
    return data.pairs(made, dataset, size, cfg.common.shuffle_buffer, seed=job.seed, device=job.device)


def _stored(job: Job) -> Pairs:
    folder = job.input("data")
    if not (folder / INDEX).is_file():
        raise ValueError(_no_pairs(job, f"{job.where}.data={folder}"))
    return Pairs(folder)
