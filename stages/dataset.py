"""The data: real handwritten digits captioned from their own pixels, or a Gaussian mixture whose truth is known."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.ranges import NonNegative, Positive, Size
from stages.core.rng import stream
from stages.core.types import Run
from stages.io.dataset import Dataset
from stages.io.expected import Expected, Inputs, Outline
from stages.io.job import Job
from stages.models.mixture import GaussianMixture, component_prompts
from stages.models.verifier import ink_mass, slope

IMAGES, PROMPTS = 1797, 84
"""Of the digits: images, and prompts that one of them shows."""
WEIGHTS = ("thin", "medium", "bold")
Drawn = Annotated[int, Field(ge=1, le=10**7)]
"""Samples of a mixture, all of which are in memory."""
SLANTS = ("right-slanted", "upright", "left-slanted")
_TESTING = "dataset/testing"


@config
class Digits:
    """The 1,797 handwritten 8x8 digits that scikit-learn ships (Alpaydin & Kaynak 1998)."""

    name: Literal["digits"]
    test_fraction: Annotated[float, Field(ge=0.01, le=0.9, allow_inf_nan=False)]
    """Share of the images, of every prompt, kept for testing."""
    num_heldout_prompts: Annotated[int, Field(ge=0, lt=PROMPTS)]
    """Prompts whose images never reach training: they measure composition."""


@config
class Mixture:
    """Isotropic Gaussians with means on a sphere, drawn from the seed; component k is prompted by "component k"."""

    name: Literal["mixture"]
    dimension: Size
    num_components: Size
    radius: NonNegative
    """Distance of every mean from the origin; noise has standard deviation 1."""
    min_std: Positive
    max_std: Positive
    """Components' standard deviations are drawn between these."""
    num_train: Drawn
    num_test: Drawn

    def __post_init__(self) -> None:
        if self.min_std > self.max_std:
            raise ValueError(f"min_std={self.min_std} exceeds max_std={self.max_std}; swap them")


Config = Annotated[Digits | Mixture, Field(discriminator="name")]


def expect(cfg: Digits | Mixture, job: Job, _inputs: Inputs) -> Expected:
    """Its sizes; ValueError where evaluate could not compare a mixture's component with its test samples."""
    if isinstance(cfg, Digits):
        test = round(cfg.test_fraction * IMAGES)
        outline = Outline(
            kind="digits", sample_shape=(1, 8, 8), attributes=("digit", "weight", "slant"),
            num_train=IMAGES - test, num_test=test, num_seen=PROMPTS - cfg.num_heldout_prompts,
        )  # fmt: skip
        return Expected(dataset=outline)
    counts = _components(cfg, cfg.num_test, stream(job.seed, _TESTING)).bincount()
    if (counts == 1).any():
        rare = int((counts == 1).nonzero()[0])
        raise ValueError(
            f"dataset.num_test={cfg.num_test}: component {rare} has a single test sample with this seed, and a spread "
            "needs two; raise it"
        )
    outline = Outline(
        kind="mixture", sample_shape=(cfg.dimension, 1, 1), attributes=("component",),
        num_train=cfg.num_train, num_test=cfg.num_test, num_seen=cfg.num_components,
    )  # fmt: skip
    return Expected(dataset=outline)


def plan(_cfg: Digits | Mixture, _job: Job) -> list[dict[str, Any]]:
    """One unit: this takes a second."""
    return [{"id": "all"}]


def work(cfg: Digits | Mixture, job: Job, _unit: Mapping[str, Any], run: Run) -> None:
    """Make the dataset in `run.out`."""
    (digits(cfg, job.seed) if isinstance(cfg, Digits) else mixture(cfg, job.seed)).save(run.out)


def finish(_cfg: Digits | Mixture, _job: Job, parts: Sequence[Path], out: Path) -> Mapping[str, float]:
    """Counts of images and prompts."""
    made = Dataset.load(parts[0])
    made.save(out)
    splits = {f"prompts_{split}": float(len(made.prompts(split))) for split in ("seen", "heldout")}
    return {"train_images": float(len(made.train_images)), "test_images": float(len(made.test_images)), **splits}


def digits(cfg: Digits, seed: int) -> Dataset:
    """Images [N, 1, 8, 8] in [-1, 1]; weight and slant are tertiles of what is measured on the pixels."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy(raw.images).float()[:, None] / 8 - 1
    edges = {"mass": _tertiles(ink_mass(images)), "slope": _tertiles(slope(images))}
    weight = torch.bucketize(ink_mass(images), torch.tensor(edges["mass"]), right=True)
    slant = torch.bucketize(slope(images), torch.tensor(edges["slope"]), right=True)
    targets = torch.stack([torch.from_numpy(raw.target).long(), weight, slant], dim=1)

    occurring = sorted({tuple(row) for row in targets.tolist()})
    assert (len(images), len(occurring)) == (IMAGES, PROMPTS), "scikit-learn ships other digits than it did"
    order = torch.randperm(len(occurring), generator=stream(seed, "dataset/heldout")).tolist()
    heldout = {occurring[i] for i in order[: cfg.num_heldout_prompts]}
    shuffled = torch.randperm(len(images), generator=stream(seed, "dataset/test"))
    test, rest = shuffled.tensor_split([round(cfg.test_fraction * len(images))])
    train = torch.tensor([i for i in sorted(rest.tolist()) if tuple(targets[i].tolist()) not in heldout])
    test = test.sort().values
    seen = {tuple(row) for row in targets[train].tolist()}
    table = [
        {"prompt": caption(d, w, s), "targets": [d, w, s], "split": _split((d, w, s), seen, heldout)}
        for d in range(10) for w in range(len(WEIGHTS)) for s in range(len(SLANTS))
    ]  # fmt: skip
    return Dataset(
        train_images=images[train], train_targets=targets[train], test_images=images[test], test_targets=targets[test],
        attributes={"digit": [str(d) for d in range(10)], "weight": list(WEIGHTS), "slant": list(SLANTS)},
        table=table, facts={"kind": "digits", "mass_edges": edges["mass"], "slope_edges": edges["slope"]},
    )  # fmt: skip


def caption(digit: int, weight: int, slant: int) -> str:
    """The prompt of a target: "a bold left-slanted 7"."""
    return f"a {WEIGHTS[weight]} {SLANTS[slant]} {digit}"


def mixture(cfg: Mixture, seed: int) -> Dataset:
    """Samples [N, d, 1, 1] of a mixture with equal weights."""
    rng = stream(seed, "dataset/mixture")
    means = torch.randn(cfg.num_components, cfg.dimension, generator=rng)
    means = cfg.radius * means / means.norm(dim=1, keepdim=True)
    stds = cfg.min_std + (cfg.max_std - cfg.min_std) * torch.rand(cfg.num_components, generator=rng)
    truth = GaussianMixture(torch.full((cfg.num_components,), 1 / cfg.num_components), means, stds)
    prompts = component_prompts(cfg.num_components)

    def drawn(count: int, name: str) -> tuple[Tensor, Tensor]:
        source = stream(seed, name)
        which = _components(cfg, count, source)
        return truth.sample(truth.tokens([prompts[k] for k in which.tolist()]), source), which[:, None]

    train, test = drawn(cfg.num_train, "dataset/train"), drawn(cfg.num_test, _TESTING)
    return Dataset(
        train_images=train[0], train_targets=train[1], test_images=test[0], test_targets=test[1],
        attributes={"component": [str(k) for k in range(cfg.num_components)]},
        table=[{"prompt": prompt, "targets": [k], "split": "seen"} for k, prompt in enumerate(prompts)],
        facts={"kind": "mixture", "means": means.tolist(), "stds": stds.tolist()},
    )  # fmt: skip


def _components(cfg: Mixture, count: int, rng: Generator) -> Tensor:
    return torch.randint(cfg.num_components, (count,), generator=rng)


def _tertiles(values: Tensor) -> list[float]:
    return torch.quantile(values, torch.tensor([1 / 3, 2 / 3])).tolist()


def _split(target: tuple[int, ...], seen: set[tuple[int, ...]], heldout: set[tuple[int, ...]]) -> str:
    return "heldout" if target in heldout else "seen" if target in seen else "absent"
