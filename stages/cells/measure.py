"""The measurements: of a model's samples, of its flow, and of real images in a model's place.

Each is given what it depends on and nothing else, since that is what a cell's key is made from.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from stages.cells.bench import SPLITS, Bench, in_turn, kept
from stages.core.config import check
from stages.core.rng import normal_at
from stages.core.spec import SamplerSpec
from stages.core.types import Sink
from stages.io.dataset import evenly
from stages.metrics.judgement import against_mixture, correctness, likeness
from stages.metrics.straightness import straightness
from stages.models import Student, load
from stages.models.verifier import MixtureVerifier
from stages.samplers import Solution
from stages.samplers.spec import Sampler
from stages.samplers.student import Noise, solutions
from stages.training.checks import finite

ADVICE = "the model has diverged; train it again with a lower learning rate, or take its arm out of the parameters"
MOST = 8192
"""Training images, at most, that are compared with the test images."""
POINTS = 500
"""Samples that a scatter plot shows."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How many samples there are, how they are drawn, and how they are compared with real images."""

    num_samples: int
    """On each split of prompts."""
    fd_repeats: int
    """For each test image's prompt."""
    batch_size: int
    """Decides the last bits: a product of matrices rounds by their shape."""
    neighbours: int


@dataclass(frozen=True, kw_only=True)
class Following:
    """How a flow is followed."""

    straightness_samples: int
    straightness_steps: int


@dataclass(frozen=True)
class Measured:
    """What is known of a cell, and samples of it to look at."""

    numbers: Mapping[str, float]
    samples: Tensor | None = None
    """[P, C, H, W], one for each row of `bench.kept`; [n, d] points of the test prompts where they are no pictures."""
    right: Tensor | None = None
    """bool [P], whether the verifier finds in a picture all that its prompt asked for; True where it judges nothing."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is measured, on which model and in which way; plain values, so that it can travel."""

    kind: Literal["samples", "flow", "real", "reward", "metric", "steered"]
    settings: Mapping[str, int]
    """Of `Sampling`, for a flow of `Following`, for a reward or a metric of their own modules."""
    sampler: Mapping[str, Any] | None = None
    """As parameters state it; None is the model's own."""
    asked: Mapping[str, Any] | None = None
    """The section of the parameters that states the reward, the metric, or what steers."""
    seed: int

    @property
    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def spec_of(sampler: Mapping[str, Any] | None, own: SamplerSpec) -> SamplerSpec:
    """How a model is sampled: as a cell says, else in its own way."""
    return own if sampler is None else check(Sampler, sampler, "sampler").spec


def measure(cell: Cell, bench: Bench, model: Path | None, name: str, sink: Sink) -> Measured:
    """Measure the model in folder `model`, or real images if there is none; `name` is for messages."""
    if model is None:
        return real(bench, Sampling(**cell.settings))
    found = opened(cell, bench, model)
    if cell.kind == "flow":
        return flow(bench, found, Following(**cell.settings), cell.seed)
    return samples(bench, found, cell, name, sink)


class Drawing(Protocol):
    """Where a cell's samples come from."""

    def __call__(
        self, bench: Bench, model: Student, split: str, places: Sequence[int], cell: Cell, name: str, /
    ) -> tuple[Tensor, Sequence[Solution]]:
        """As `drawn`; no solutions where calls are counted elsewhere."""
        ...


def samples(bench: Bench, model: Student, cell: Cell, name: str, sink: Sink, draw: Drawing | None = None) -> Measured:
    """Sample the model called `name` for the prompts of each split and of the test images.

    ValueError with that name if it has diverged.
    """
    settings = Sampling(**cell.settings)
    begin, images, places = time.perf_counter(), dict[str, Tensor](), dict[str, list[int]]()
    spent = list[Solution]()
    for split in ("test", *SPLITS):
        asked = _places(bench, split, settings)
        if not asked:
            continue
        images[split], solved = (draw or drawn)(bench, model, split, asked, cell, name)
        spent += solved
        places[split] = asked
        count = sum(map(len, images.values()))
        sink(len(images), {"images": count, "images_per_second": count / (time.perf_counter() - begin)})
    numbers: dict[str, float] = {
        "guidance": model.spec.guidance,
        "parameters": sum(p.numel() for p in model.net.parameters()),
    }
    if spent:
        numbers["nfe"] = _mean(spent, lambda solution: solution.nfe)
        numbers["network_calls"] = _mean(spent, lambda solution: solution.cost)
    for split in (name for name in SPLITS if name in images):
        numbers |= correctness(bench.verifier, images[split], bench.prompts(places[split]), split)
    if bench.dataset.has_real:
        numbers |= _likeness(bench, images["test"], places["test"], settings)
    shown = kept(bench.dataset, settings.num_samples)
    of = [bench.dataset.splits[place] for place in shown]
    first = [images[split][places[split].index(place)] for split, place in zip(of, shown, strict=True)]
    pictures = torch.stack(first)
    return _shown(bench, numbers, pictures, images.get("test", pictures), shown)


def drawn(
    bench: Bench, model: Student, split: str, places: Sequence[int], cell: Cell, name: str
) -> tuple[Tensor, list[Solution]]:
    """Images [n, ...] of the model called `name` for the prompts of `split` at `places`, and how they were solved.

    Those of another cell are the same, to the last bit. ValueError with the name if the model has diverged.
    """
    noise = Noise(cell.seed, f"evaluate/{split}")
    solved = list(solutions(model, bench.dataset.rows(places), noise, batch_size=cell.settings["batch_size"]))
    made = torch.cat([solution.x0 for solution in solved])
    return model.space.decode(finite(made, f"{name}: samples of {split} prompts", ADVICE)), solved


def _mean(solved: Sequence[Solution], what: Callable[[Solution], float]) -> float:
    """Over samples; to the last bit what it is for all of them, where they do not differ."""
    found, sizes = [what(each) for each in solved], [len(each.x0) for each in solved]
    if len({*found}) == 1:
        return found[0]
    return sum(each * size for each, size in zip(found, sizes, strict=True)) / sum(sizes)


def opened(cell: Cell, bench: Bench, model: Path) -> Student:
    """The model in folder `model`, to be sampled as the cell says."""
    found = load(model, bench.table, bench.dataset.test_images.device)
    return replace(found, spec=spec_of(cell.sampler, found.spec))


def flow(bench: Bench, model: Student, settings: Following, seed: int) -> Measured:
    """Straightness S(Z) of a model's flow, mean over elements, for the test images' prompts in turn."""
    count = settings.straightness_samples
    known = bench.compared_places(1, count)
    device = bench.dataset.test_images.device
    cond = bench.dataset.rows([known[i % len(known)] for i in range(count)]).to(device)
    noise = normal_at(seed, "evaluate/straightness", 0, count, model.space.shape).to(device)
    with torch.no_grad():
        found = straightness(lambda x, t: model.net(x, t, cond), noise, num_steps=settings.straightness_steps)
    return Measured({"straightness": found.mean().item() / noise[0].numel()})


def real(bench: Bench, settings: Sampling) -> Measured:
    """Real images in a model's place: the ceiling of the score, and the floor of the distance (train against test)."""
    data = bench.dataset
    if not data.has_real:
        return Measured({})
    places = data.test_prompts.tolist()
    numbers: dict[str, float] = {}
    for name in ("test", *SPLITS):
        rows = [i for i, place in enumerate(places) if name in ("test", data.splits[place])]
        if rows:
            asked = bench.prompts([places[i] for i in rows])
            numbers |= correctness(bench.verifier, data.test_images[rows], asked, name)
    every = range(len(data.train_images))
    rows = list(evenly(every, MOST) if len(every) > MOST else every)
    numbers |= _likeness(bench, data.train_images[rows], data.train_prompts[rows].tolist(), settings)
    shown = kept(data, settings.num_samples)
    images, of = torch.cat([data.test_images, data.train_images]), torch.cat([data.test_prompts, data.train_prompts])
    first = [int((of == place).nonzero()[0]) for place in shown]
    return _shown(bench, numbers, images[first], data.test_images, shown)


def _places(bench: Bench, name: str, settings: Sampling) -> list[int]:
    if name == "test":
        return bench.compared_places(settings.fd_repeats, settings.num_samples) if bench.dataset.has_real else []
    return in_turn(bench.dataset, name, settings.num_samples)  # type: ignore[arg-type]


def _likeness(bench: Bench, images: Tensor, places: Sequence[int], settings: Sampling) -> dict[str, float]:
    """How near images are to the real test images, and to the truth where that is known in closed form."""
    if not bench.verifier.attributes:
        return {}
    truth = bench.dataset.test_images
    numbers = likeness(bench.verifier, images, truth, k=settings.neighbours)
    if isinstance(bench.verifier, MixtureVerifier):
        made = (images, torch.tensor(places))  # the components are the prompts, in order
        numbers |= against_mixture(bench.verifier.mixture, made, (truth, bench.dataset.test_prompts))
    return numbers


def _shown(
    bench: Bench, numbers: Mapping[str, float], pictures: Tensor, cloud: Tensor, places: Sequence[int]
) -> Measured:
    right = bench.verifier.judge(pictures, bench.prompts(places)).all(dim=1)
    if bench.dataset.space == "points":
        return Measured(numbers, cloud[:POINTS].flatten(1), right)
    stills = pictures[:, :, pictures.shape[2] // 2] if pictures.dim() == 5 else pictures  # a video's middle frame
    return Measured(numbers, stills, right)
