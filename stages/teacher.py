"""The many-step model: trained here by flow matching or as diffusion of greys, a mixture's exact velocity, or a
checkpoint of diffusers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from stages.core.coarse import divides
from stages.core.config import config
from stages.core.messages import at
from stages.core.needs import Needs
from stages.core.ranges import Count, Guidance, Steps
from stages.core.spec import even
from stages.core.types import Run
from stages.io.dataset import Dataset
from stages.io.expected import Expected, Inputs, Outline, outline
from stages.io.job import Job
from stages.models import Student, export, save, sketch
from stages.models.checkpoint import Checkpoint, Options
from stages.models.mixture import GaussianMixture
from stages.models.network import NetworkConfig, seeded_teacher
from stages.models.space import SPACES, Points, Tokens, UniformTokens
from stages.models.text import TextEncoderConfig
from stages.training import ambient, flow_matching, masked, uniform_state
from stages.training import data as batches
from stages.training import needs as training
from stages.training.budget import Budget
from stages.training.loop import Trainer
from stages.training.outcome import gather, record
from stages.training.roles import FULL, Start


@config
class Learnt:
    """What is learnt on the train split."""

    network: NetworkConfig
    text_encoder: TextEncoderConfig
    """As wide as the network, with which it learns; it is frozen ever after."""
    batch_size: Count
    budget: Budget

    def __post_init__(self) -> None:
        self.budget.check_slices("batch_size", self.batch_size)


@config
class Trained(Learnt):
    """Flow matching."""

    kind: Literal["flow_matching"]
    method: flow_matching.Config


@config
class Ambient(Learnt):
    """Flow matching on images of which a share has noise on it, put there from the seed."""

    kind: Literal["ambient"]
    method: ambient.Config


@config
class Greys(Learnt):
    """A pixel is a token, one of so many greys."""

    levels: Annotated[int, Field(ge=2, le=256)]
    """From black to white, even ones, both among them; pixels are rounded to them."""


@config
class Masked(Greys):
    """Masked diffusion. No students are made of it."""

    kind: Literal["masked"]
    method: masked.Config


@config
class UniformState(Greys):
    """Uniform-state diffusion: noise puts any grey in the place of another."""

    kind: Literal["uniform_state"]
    method: uniform_state.Config


@config
class Exact:
    """The closed form of the dataset's mixture."""

    kind: Literal["exact"]
    nfe: Steps
    """Euler steps of the teacher's own sampler."""


@config
class Imported(Options):
    """A checkpoint of diffusers, as it is."""

    kind: Literal["diffusers"]
    source: str
    """The folder of a pipeline, or hub:<id>@<revision>."""
    made_by: str | None
    """The command that makes the folder, for whoever lacks it; null where it is not made by a command."""
    weights: Literal["reference", "copy"]
    """Whether the artefact names the folder, which has to stay there, for all who work, or holds it."""
    nfe: Steps
    """Euler steps of the teacher's own sampler, spread as the checkpoint's scheduler says."""
    guidance: Guidance
    """Classifier-free guidance of that sampler; 1 is none."""

    @property
    def options(self) -> Options:
        """How it is read."""
        return Options(**{field.name: getattr(self, field.name) for field in fields(Options)})

    @property
    def found(self) -> Checkpoint:
        """ValueError where it is not there."""
        at = export.found(self.source, self.options)
        if self.made_by and not at.folder.is_dir():
            raise ValueError(f"source={self.source}: no such folder; make it once: {self.made_by}")
        return at


_STOCK = (
    "its teacher has above_t_max=stock, by which nothing is learnt at pure noise, where students begin; set it to clamp"
)
AnyTeacher = Trained | Ambient | Masked | UniformState | Exact | Imported
_METHODS = MappingProxyType(
    {"flow_matching": flow_matching, "ambient": ambient, "masked": masked, "uniform_state": uniform_state}
)
_TOKENS: Mapping[str, type[Tokens]] = MappingProxyType({"masked": Tokens, "uniform_state": UniformTokens})
Config = Annotated[AnyTeacher, Field(discriminator="kind")]


def expect(cfg: AnyTeacher, job: Job, inputs: Inputs) -> Expected:
    """A model for samples of the dataset's shape."""
    data = outline(inputs)
    if isinstance(cfg, Imported):
        with at(job.where):
            found = cfg.found
            found.check()
            if data:
                _fits(cfg, data)
        fault = _STOCK if found.is_scaled else None
        return Expected(model="checkpoint", sketch=sketch.checkpoint(found), fault=fault)
    if data and isinstance(cfg, Exact):
        _is_known(data.kind)
    shape = data and data.sample_shape
    if data and isinstance(cfg, Learnt):
        _has_images(data.num_train, cfg.kind)
        if isinstance(cfg, Greys):
            shape = _greys(cfg, data.sample_shape)
        with at(f"{job.where}.network"):
            cfg.network.fit(data.sample_shape)
    if data and isinstance(cfg, Trained) and cfg.method.told:
        with at(f"{job.where}.method.told"):
            divides(cfg.method.told.factor, data.sample_shape)
    if isinstance(cfg, Exact):
        return Expected(model="closed form")
    is_told = isinstance(cfg, Trained) and cfg.method.told is not None
    drawn = shape and sketch.trained(cfg.network, shape)
    noising = _TOKENS[cfg.kind].noising if isinstance(cfg, Greys) else None
    return Expected(model="trained", sketch=drawn, is_told=is_told, tokens=noising)


def needs(cfg: AnyTeacher, _job: Job, _inputs: Inputs, made: Expected) -> Needs | None:
    """Where it is trained here."""
    if not isinstance(cfg, Learnt) or made.sketch is None:
        return None
    drawn = made.sketch
    return training.needs(_METHODS[cfg.kind], cfg.method, cfg.budget, drawn, drawn, FULL, rows=cfg.batch_size)


def _is_known(kind: str) -> None:
    if kind != "mixture":
        raise ValueError(f"teacher.kind=exact needs a mixture, the dataset holds {kind}")


def _has_images(count: int, kind: str) -> None:
    if not count:
        raise ValueError(
            f"teacher.kind={kind}: it learns from images, and the dataset has prompts alone; bring images to "
            "them, or a checkpoint: teacher=diffusers"
        )


def _greys(cfg: Greys, sample_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of samples of tokens; ValueError for pictures in colour."""
    channels, *sides = sample_shape
    if channels != 1 or min(sides) == 1:
        raise ValueError(
            f"teacher.kind={cfg.kind}: pixels are tokens, one of {cfg.levels} greys, and the dataset's samples are "
            f"{list(sample_shape)}; name one of grey pictures, or take teacher=flow_matching"
        )
    return (cfg.levels, *sides)


def _fits(cfg: Imported, data: Outline) -> None:
    """ValueError unless the dataset's images, if it has any, could be the checkpoint's."""
    channels, *_, height, width = data.sample_shape
    if (channels, height, width) != (3, cfg.height, cfg.width):
        raise ValueError(
            f"height={cfg.height}, width={cfg.width}: the dataset's samples are {list(data.sample_shape)}; make them "
            "one size, of three channels"
        )
    if cfg.frames is not None and data.num_train:
        raise ValueError(f"frames={cfg.frames}: the dataset holds images; name one of prompts alone, or set it to null")


def plan(cfg: AnyTeacher, _job: Job) -> list[dict[str, Any]]:
    """One unit. A checkpoint is named by where it lies, whatever folder a worker is in."""
    return [{"id": "all"} | ({"source": cfg.found.source} if isinstance(cfg, Imported) else {})]


def work(cfg: AnyTeacher, job: Job, unit: Mapping[str, Any], run: Run) -> None:
    """Train the teacher and save its average, with its sampler, to run.out/model."""
    if isinstance(cfg, Imported):
        checkpoint = export.found(unit["source"], cfg.options)
        spec = export.own_sampler(checkpoint, cfg.nfe, cfg.guidance)
        export.imported(run.out / "model", checkpoint, spec, copied=cfg.weights == "copy")
        return
    data = Dataset.load(job.input("dataset"))
    if isinstance(cfg, Exact):
        _is_known(data.facts["kind"])
        exact = GaussianMixture.even(data.facts["means"], data.facts["stds"])
        save(run.out / "model", Student(exact, even(cfg.nfe), Points(data.sample_shape), exact.encoder))
        return
    _has_images(len(data.train_images), cfg.kind)
    is_greys = isinstance(cfg, Greys)
    space = _TOKENS[cfg.kind](_greys(cfg, data.sample_shape)) if is_greys else SPACES[data.space](data.sample_shape)
    prompts = [prompt.text for prompt in data.table]
    net = seeded_teacher(job.seed, cfg.network, space.shape, prompts, cfg.text_encoder)
    net.tokens = space.noising
    start = Start(init=net, teacher=net, space=space)
    method, images = _METHODS[cfg.kind], space.encode(data.train_images)
    beside = dict[str, Tensor]()
    if isinstance(cfg, Ambient):
        images, beside["level"] = ambient.noised(images, cfg.method, job.seed)
    trainer = Trainer(method, cfg.method, cfg.budget, start, seed=job.seed, device=job.device, ranks=run.ranks)
    batch_at = batches.images(data, images, cfg.batch_size, job.seed, job.device, **beside)
    outcome = trainer.run(batch_at, resume=run.resume, sink=run.sink)
    made = Student(outcome.student, method.sampler(cfg.method), space, outcome.student.text.frozen())
    record(run.out, outcome, made)


def finish(_cfg: AnyTeacher, _job: Job, parts: Sequence[Path], out: Path) -> Mapping[str, float]:
    """The last losses of training."""
    return gather(parts[0], out)
