"""Pairs for straightening and distillation, made of recorded trajectories, and how straight the flow was before.

Where asked for, also which few steps follow the teacher best, and samplers that are fitted to it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.guidance import guided
from stages.core.messages import at
from stages.core.path import LINEAR
from stages.core.precision import Wide
from stages.core.ranges import Count, Guidance, row_of
from stages.core.ranges import Steps as NumSteps
from stages.core.rng import stream
from stages.core.spec import even
from stages.core.types import Run
from stages.couplings import COUPLINGS, MATCHED, couple
from stages.io import shards
from stages.io.artefacts import adopt, write_json
from stages.io.dataset import Dataset
from stages.io.expected import Expected, Inputs, outline
from stages.io.job import Job
from stages.io.pairs import Pairs
from stages.io.steps import Steps, fitted_at
from stages.metrics.pairs import moments, pair_statistics
from stages.metrics.straightness import straightness
from stages.models import Student, load, samples, space_of, table_of
from stages.models.space import Tokens
from stages.samplers import sample
from stages.samplers.aligned import aligned_costs
from stages.samplers.field import VelocityAt
from stages.samplers.fits import AnyFit, OfPictures
from stages.samplers.fits.model import Fitting
from stages.samplers.search import best_nodes, jump_costs
from stages.samplers.spec import Sampler

NAME = r"^[A-Za-z][A-Za-z0-9_-]{0,63}$"
"""What a fitted sampler may be called."""
_FOUND = "found.json"
"""What a unit tells `finish`."""
_STRAIGHT = "straightness_teacher"


@config
class Straightness:
    """How S(Z) is measured: on Euler trajectories of the teacher."""

    num_samples: Count
    num_steps: NumSteps
    """S is biased low with few steps; 64 or more."""


@config
class Search:
    """How the best nodes for few steps are found: by what each step costs the teacher's flow (samplers/search.py)."""

    cost: Literal["jump", "align_your_steps"]
    """Of a step: Euler's error on trajectories of the teacher (BOSS), or a bound on data with noise."""
    num_samples: Count
    num_steps: NumSteps
    """Of the fine grid, from whose times nodes are chosen."""
    guidance: Guidance
    """w: classifier-free guidance of the teacher; 1 is none."""


@config
class Config:
    """Which noise goes with which sample."""

    coupling: Annotated[str, row_of(COUPLINGS, "coupling")]
    """teacher_ode: each noise with the teacher's sample of it (reflow). The others: with real data."""
    ot_batch: Count
    """Samples that optimal transport, minibatch or semi-discrete, matches together."""
    straightness: Straightness
    search: Search | None
    """null searches for no steps."""
    samplers: dict[Annotated[str, Field(pattern=NAME)], AnyFit]
    """Name -> how a sampler is fitted to the teacher, one of `stages/samplers/fits`."""

    def has_real(self, count: int) -> None:
        """ValueError where noise should go with real data and there is none."""
        if self.coupling != "teacher_ode" and not count:
            raise ValueError(
                f"reflow.coupling={self.coupling}: pairs noise with images, and the dataset has prompts alone; take "
                "teacher_ode"
            )

    def asks_no_flow(self) -> None:
        """ValueError where something is to be searched for, or fitted to, a teacher of tokens."""
        if self.search or self.samplers:
            raise ValueError(
                "reflow: the teacher is of tokens and has no flow to search or fit a sampler for; set reflow.search to "
                "null and reflow.samplers to {}"
            )

    def suits(self, teacher: Expected) -> None:
        """ValueError where samplers that restore pictures are to be fitted to a teacher that does not."""
        for name, fit in self.samplers.items():
            if isinstance(fit, OfPictures):
                with at(f"reflow.samplers.{name}"):
                    if not teacher.is_told:
                        raise ValueError("the teacher is told no pictures; take teacher=restoration, or another fit")
                    if teacher.sketch:
                        fit.suits(teacher.sketch.shape)

    def matches(self, shard: int) -> None:
        """ValueError where a shard of so many trajectories has too few for a batch that is matched."""
        if self.coupling in MATCHED and self.ot_batch > shard:
            raise ValueError(
                f"reflow.ot_batch={self.ot_batch}: a shard has {shard} trajectories, and pairs are made inside one; "
                "set it no larger than trajectories.shard_size"
            )


def expect(cfg: Config, _job: Job, inputs: Inputs) -> Expected:
    """As many pairs in each shard as there were."""
    data = outline(inputs)
    if data:
        cfg.has_real(data.num_train)
    if (teacher := inputs["teacher"]) and teacher.tokens:
        cfg.asks_no_flow()
    if teacher:
        cfg.suits(teacher)
    given = inputs["trajectories"]
    if given and given.shard_size:
        cfg.matches(given.shard_size)
    return Expected(has_pairs=True, shard_size=given and given.shard_size, searched=cfg.search and cfg.search.num_steps)


def plan(cfg: Config, job: Job) -> list[dict[str, Any]]:
    """One unit a shard of trajectories, one for the search, and one a sampler; one for the straightness of a flow."""
    count = len(Pairs(job.input("trajectories")).rows)
    searches = [{"id": "search", "shard": None}] if cfg.search else []
    fits = [{"id": f"sampler-{name}", "shard": None, "fit": name} for name in cfg.samplers]
    shards = [{"id": f"shard-{i:05d}", "shard": i, "prompts": False} for i in range(count)]
    has_flow = not isinstance(space_of(job.input("teacher") / "model"), Tokens)
    straight = [{"id": "straightness", "shard": None}] if has_flow else []
    return [*straight, *shards, *searches, *fits]


def work(cfg: Config, job: Job, unit: Mapping[str, Any], run: Run) -> None:
    """Pair the rows of one shard, measure, search, or fit a sampler."""
    recorded = Pairs(job.input("trajectories"))
    if unit["shard"] is not None:
        _pair(cfg, job, recorded, unit["shard"], run.out)
        run.sink(1, {})
        return
    table = table_of(job.input("encode"), job.device, held=job.held, encode=run.encode)
    teacher = load(job.input("teacher") / "model", table, job.device)
    if unit["id"] == "straightness":
        write_json(run.out / _FOUND, {_STRAIGHT: _straightness(cfg.straightness, job, teacher, recorded)})
    elif unit["id"] == "search":
        assert cfg.search is not None
        _search(cfg.search, job, teacher, recorded).write(run.out)
    else:
        name = unit["fit"]
        fitted, file = _fit(cfg, job, teacher, recorded, name), fitted_at(run.out, name)
        file.parent.mkdir(exist_ok=True)
        write_json(file, fitted.stated)
    run.sink(1, {})


def _pair(cfg: Config, job: Job, recorded: Pairs, number: int, out: Path) -> None:
    """What is drawn depends on the shard's number alone, so that no shard needs another."""
    found, names = recorded.read(number), recorded.prompts
    noise, x0, index = found["noise"], found["x0"], found["prompt_index"]
    cfg.matches(len(noise))
    if cfg.coupling != "teacher_ode":
        x0, index, names = _real(cfg, job, len(noise), stream(job.seed, "reflow/data", number))
    rng = stream(job.seed, "reflow/coupling", number)
    noise, x0, index = couple(noise, x0, index, name=cfg.coupling, batch=cfg.ot_batch, rng=rng)
    recorded.layout.write(out / shards.name(number), noise=noise, x0=x0, prompt_index=index)
    shards.write_prompts(out, names)
    write_json(out / _FOUND, moments(noise, x0))


def _real(cfg: Config, job: Job, count: int, rng: Generator) -> tuple[Tensor, Tensor, list[str]]:
    """`count` samples of real images with the places of their prompts, drawn with replacement, and all prompts."""
    dataset = Dataset.load(job.input("dataset"))
    cfg.has_real(len(dataset.train_images))
    rows = torch.randint(len(dataset.train_images), (count,), generator=rng)
    names = dataset.texts(range(len(dataset.prompts)))
    space = space_of(job.input("teacher") / "model")
    return (
        samples(job.input("encode"), dataset.train_images, space, latent=dataset.space == "latents")[rows],
        dataset.train_prompts[rows],
        names,
    )


def _straightness(cfg: Straightness, job: Job, teacher: Student, recorded: Pairs) -> float:
    """S(Z) of the teacher's flow, mean over elements, with prompts as frequent as in the trajectories."""
    velocity, noise = _flow(job, teacher, recorded, cfg.num_samples, "reflow/straightness", 1.0)
    with torch.no_grad():
        found = straightness(velocity, noise, num_steps=cfg.num_steps)
    return found.mean().item() / noise[0].numel()


def _search(cfg: Search, job: Job, teacher: Student, recorded: Pairs) -> Steps:
    """The nodes of few steps that follow the teacher's flow best, for each number of them."""
    velocity, noise = _flow(job, teacher, recorded, cfg.num_samples, "reflow/search", cfg.guidance)
    times = even(cfg.num_steps).times
    with torch.no_grad():
        if cfg.cost == "jump":
            states = sample(velocity, noise, times, "euler", keep=range(len(times))).states
            costs = jump_costs(states, torch.tensor(times, dtype=torch.float64, device=states.device))
        else:
            x0, rng = _first(recorded, cfg.num_samples).to(noise), stream(job.seed, "reflow/noised")
            costs = aligned_costs(velocity, x0, LINEAR, torch.tensor(times), rng)
    nodes, left = zip(*best_nodes(costs), strict=True)
    return Steps(times, nodes, [each / noise[0].numel() for each in left])


def _fit(cfg: Config, job: Job, teacher: Student, recorded: Pairs, name: str) -> Sampler:
    """The sampler called `name`, fitted to the teacher on samples of its own, or on pictures of the data set."""
    fit = cfg.samplers[name]
    cond, noise = _start(job, teacher, recorded, fit.num_samples, "reflow/fit")
    if isinstance(fit, OfPictures):
        x0, places, _ = _real(cfg, job, len(noise), stream(job.seed, "reflow/fit/pictures"))
        cond = Dataset.load(job.input("dataset")).rows(places).to(job.device)
    else:
        x0 = _first(recorded, fit.num_samples)
    with torch.no_grad():
        return fit.fitted(
            Fitting(
                Wide(teacher.net),
                cond,
                noise,
                x0.to(noise),
                lambda word: stream(job.seed, f"reflow/fit/{name}/{word}"),
            )
        )


def _first(recorded: Pairs, count: int) -> Tensor:
    """The samples of the first `count` trajectories, or of all if there are fewer."""
    found = list[Tensor]()
    for number in range(len(recorded.rows)):
        if sum(map(len, found)) < count:
            found.append(recorded.read(number)["x0"])
    return torch.cat(found)[:count]


def _flow(
    job: Job, teacher: Student, recorded: Pairs, count: int, name: str, guidance: float
) -> tuple[VelocityAt, Tensor]:
    """The teacher's velocity under the prompts of the first `count` trajectories, and noise to start from."""
    cond, noise = _start(job, teacher, recorded, count, name)
    velocity = guided(teacher.net, guidance)
    return lambda x, t: velocity(x, t, cond), noise


def _start(job: Job, teacher: Student, recorded: Pairs, count: int, name: str) -> tuple[Tensor, Tensor]:
    """The prompts of the first `count` trajectories, and noise of the teacher's for them."""
    dataset = Dataset.load(job.input("dataset"))
    cond = dataset.rows(dataset.place_of(recorded.first_prompts(count))).to(job.device)
    return cond, teacher.space.noise(len(cond), stream(job.seed, name)).to(job.device)


def finish(_cfg: Config, job: Job, parts: Sequence[Path], out: Path) -> Mapping[str, float]:
    """Gather the shards and what the search found, and the statistics of all pairs in stats.json."""
    for part in parts:
        adopt(part, out, but=_FOUND)
    recorded = Pairs(job.input("trajectories"))
    recorded.layout.write_index(out, recorded.rows)
    told = [part / _FOUND for part in parts if (part / _FOUND).is_file()]
    sums = [json.loads(file.read_text(encoding="utf-8")) for file in told]
    measured = sums.pop(0) if _STRAIGHT in sums[0] else {}
    statistics = {**pair_statistics(sums), **measured}
    write_json(out / "stats.json", statistics)
    return statistics
