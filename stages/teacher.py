"""The many-step model: a flow-matching transformer trained here, or a mixture's exact velocity."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from stages.core.config import config
from stages.core.messages import at
from stages.core.ranges import Count, Steps
from stages.core.spec import even
from stages.core.types import Run
from stages.io.dataset import Dataset
from stages.io.expected import Expected, Inputs, outline
from stages.io.job import Job
from stages.models import Student, save
from stages.models.mixture import GaussianMixture
from stages.models.network import NetworkConfig, seeded_teacher
from stages.models.space import SPACES, Points
from stages.models.text import TextEncoderConfig
from stages.training import data as batches
from stages.training import flow_matching
from stages.training.loop import Budget, Trainer
from stages.training.outcome import gather, record
from stages.training.roles import Start


@config
class Trained:
    """Flow matching on the train split."""

    kind: Literal["flow_matching"]
    network: NetworkConfig
    text_encoder: TextEncoderConfig
    """As wide as the network, with which it learns; it is frozen ever after."""
    batch_size: Count
    budget: Budget
    method: flow_matching.Config

    def __post_init__(self) -> None:
        self.budget.check_slices("batch_size", self.batch_size)


@config
class Exact:
    """The closed form of the dataset's mixture."""

    kind: Literal["exact"]
    nfe: Steps
    """Euler steps of the teacher's own sampler."""


Config = Annotated[Trained | Exact, Field(discriminator="kind")]


def expect(cfg: Trained | Exact, job: Job, inputs: Inputs) -> Expected:
    """A model for samples of the dataset's shape."""
    data = outline(inputs)
    if data and isinstance(cfg, Exact):
        _is_known(data.kind)
    if data and isinstance(cfg, Trained):
        with at(f"{job.where}.network"):
            cfg.network.fit(data.sample_shape)
    return Expected(model="trained" if isinstance(cfg, Trained) else "closed form")


def _is_known(kind: str) -> None:
    if kind != "mixture":
        raise ValueError(f"teacher.kind=exact needs a mixture, the dataset holds {kind}")


def plan(_cfg: Trained | Exact, _job: Job) -> list[dict[str, Any]]:
    """One unit."""
    return [{"id": "all"}]


def work(cfg: Trained | Exact, job: Job, _unit: Mapping[str, Any], run: Run) -> None:
    """Train the teacher and save its average, with its sampler, to run.out/model."""
    data = Dataset.load(job.input("dataset"))
    if isinstance(cfg, Exact):
        _is_known(data.facts["kind"])
        exact = GaussianMixture.even(data.facts["means"], data.facts["stds"])
        save(run.out / "model", Student(exact, even(cfg.nfe), Points(data.sample_shape), exact.encoder))
        return
    space = SPACES[data.space](data.sample_shape)
    prompts = [prompt.text for prompt in data.table]
    net = seeded_teacher(job.seed, cfg.network, data.sample_shape, prompts, cfg.text_encoder)
    start = Start(init=net, teacher=net, space=space)
    trainer = Trainer(flow_matching, cfg.method, cfg.budget, start, seed=job.seed, device=job.device, ranks=run.ranks)
    batch_at = batches.images(data, space, cfg.batch_size, job.seed, job.device)
    outcome = trainer.run(batch_at, resume=run.resume, sink=run.sink)
    made = Student(outcome.student, flow_matching.sampler(cfg.method), space, outcome.student.text.frozen())
    record(run.out, outcome, made, cfg.budget.iterations)


def finish(_cfg: Trained | Exact, _job: Job, parts: Sequence[Path], out: Path) -> Mapping[str, float]:
    """The last losses of training."""
    return gather(parts[0], out)
