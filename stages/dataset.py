"""The data: handwritten digits captioned from their own pixels, scenes of shapes, words, a folder of captioned
images, prompts with or without images, or a mixture whose truth is known.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from stages.core.config import config
from stages.core.prompts import Prompt
from stages.core.ranges import NonNegative, Positive, Size
from stages.core.rng import stream
from stages.core.types import Run
from stages.io import folder as folders
from stages.io import prompts as lists
from stages.io import raw
from stages.io import shapes as scenes
from stages.io import words as spelled
from stages.io.artefacts import adopt
from stages.io.dataset import Dataset
from stages.io.drawn import TESTING, Drawn
from stages.io.expected import Expected, Inputs, Outline
from stages.io.folder import Folder
from stages.io.job import Job
from stages.io.prompts import Prompts
from stages.io.shapes import Shapes
from stages.io.split import Cut, cut, parted
from stages.io.storage import use
from stages.io.words import Words
from stages.models.mixture import GaussianMixture, component_prompts
from stages.models.scenes import JUDGED
from stages.models.verifier import SLANTS, WEIGHTS, ink_mass, slope
from stages.words.spelling import attributes

IMAGES, PROMPTS = 1797, 84
"""Of the digits: images, and prompts that one of them shows."""


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


AnyData = Digits | Mixture | Shapes | Words | Folder | Prompts
Config = Annotated[AnyData, Field(discriminator="name")]


def expect(cfg: AnyData, job: Job, _inputs: Inputs) -> Expected:
    """Its sizes.

    ValueError where evaluate could not compare a mixture's component with its test samples, and for all that is wrong
    with a folder, or with prompts, as far as images and tar shards need not be opened.
    """
    if isinstance(cfg, Prompts):
        use(job.endpoint)
        return lists.expected(cfg, job.seed)
    if isinstance(cfg, Folder):
        prompts, place = _prompts(folders.survey(Path(cfg.path)))
        found = _cut(cfg, place, len(prompts), job.seed)
        shown = place[found.train].bincount(minlength=len(prompts))
        outline = Outline(
            kind="folder", sample_shape=(cfg.channels, cfg.size, cfg.size), attributes=("prompt",),
            num_train=len(found.train), num_test=len(found.test), num_seen=found.splits.count("seen"),
            num_heldout=found.splits.count("heldout"), prompts=frozenset(prompt.text for prompt in prompts),
            rarest=(prompts[int(shown.argmin())].text, int(shown.min())),
        )  # fmt: skip
        return Expected(dataset=outline)
    if isinstance(cfg, Digits):
        test = round(cfg.test_fraction * IMAGES)
        outline = Outline(
            kind="digits", sample_shape=(1, 8, 8), attributes=("digit", "weight", "slant"),
            num_train=IMAGES - test, num_test=test, num_seen=PROMPTS - cfg.num_heldout_prompts,
            num_heldout=cfg.num_heldout_prompts, prompts=frozenset(caption(*each) for each in _every()),
        )  # fmt: skip
        return Expected(dataset=outline)
    if isinstance(cfg, Shapes):
        seen, heldout = scenes.texts(cfg, job.seed)
        outline = Outline(
            kind="shapes", sample_shape=(3, cfg.scenes.size, cfg.scenes.size), attributes=JUDGED,
            num_train=cfg.num_train, num_test=cfg.num_test, num_seen=len(seen), num_heldout=len(heldout),
            prompts=frozenset([*seen, *heldout]),
        )  # fmt: skip
        return Expected(dataset=outline)
    if isinstance(cfg, Words):
        seen, heldout = spelled.texts(cfg, job.seed)
        outline = Outline(
            kind="words", sample_shape=(3, cfg.pictures.height, cfg.pictures.width),
            attributes=attributes(len(cfg.letters)), num_train=cfg.num_train, num_test=cfg.num_test,
            num_seen=len(seen), num_heldout=len(heldout), prompts=frozenset([*seen, *heldout]),
        )  # fmt: skip
        return Expected(dataset=outline)
    counts = _components(cfg, cfg.num_test, stream(job.seed, TESTING)).bincount()
    if (counts == 1).any():
        rare = int((counts == 1).nonzero()[0])
        raise ValueError(
            f"dataset.num_test={cfg.num_test}: component {rare} has a single test sample with this seed, and a spread "
            "needs two; raise it"
        )
    outline = Outline(
        kind="mixture", sample_shape=(cfg.dimension, 1, 1), attributes=("component",),
        num_train=cfg.num_train, num_test=cfg.num_test, num_seen=cfg.num_components,
        prompts=frozenset(component_prompts(cfg.num_components)),
    )  # fmt: skip
    return Expected(dataset=outline)


def plan(cfg: AnyData, _job: Job) -> list[dict[str, Any]]:
    """One unit. What is read from files is called after their bytes: nobody goes on with what was made of others."""
    if isinstance(cfg, Prompts):
        content = raw.digest(lists.files(cfg))
        return [{"id": f"prompts-{content[:16]}", "digest": content}]
    if not isinstance(cfg, Folder):
        return [{"id": "all"}]
    root = Path(cfg.path).resolve()
    content = folders.digest(root, folders.survey(root))
    return [{"id": f"folder-{content[:16]}", "root": str(root), "digest": content}]


def work(cfg: AnyData, job: Job, unit: Mapping[str, Any], run: Run) -> None:
    """Make the dataset in `run.out`."""
    if isinstance(cfg, Folder):
        made = folder(cfg, Path(unit["root"]), unit["digest"], job.seed)
    elif isinstance(cfg, Prompts):
        made = prompts(cfg, unit["digest"], job.seed)
    else:
        made = {Digits: digits, Mixture: mixture, Shapes: scenes.dataset, Words: spelled.dataset}[type(cfg)](
            cfg, job.seed
        )
    made.save(run.out)


def finish(_cfg: AnyData, _job: Job, parts: Sequence[Path], out: Path) -> Mapping[str, float]:
    """Counts of images and prompts."""
    made = Dataset.load(parts[0])
    adopt(parts[0], out)
    splits = {f"prompts_{split}": float(len(made.places(split))) for split in ("seen", "heldout")}
    return {"train_images": float(len(made.train_images)), "test_images": float(len(made.test_images)), **splits}


def digits(cfg: Digits, seed: int) -> Dataset:
    """Images [N, 1, 8, 8]; weight and slant are tertiles of what is measured on the pixels."""
    from sklearn.datasets import load_digits

    shipped = load_digits()
    images = torch.from_numpy(shipped.images).float()[:, None] / 16
    edges = {"mass": _tertiles(ink_mass(images)), "slope": _tertiles(slope(images))}
    weight = torch.bucketize(ink_mass(images), torch.tensor(edges["mass"]), right=True)
    slant = torch.bucketize(slope(images), torch.tensor(edges["slope"]), right=True)
    every = _every()
    place = (torch.from_numpy(shipped.target).long() * len(WEIGHTS) + weight) * len(SLANTS) + slant

    assert (len(images), len(place.unique())) == (IMAGES, PROMPTS), "scikit-learn ships other digits than it did"
    prompts = [Prompt(caption(*each), _facts(*each)) for each in every]
    facts = {"kind": "digits", "mass_edges": edges["mass"], "slope_edges": edges["slope"]}
    return parted(images, prompts, place, _cut(cfg, place, len(every), seed), facts)


def folder(cfg: Folder, root: Path, content: str, seed: int) -> Dataset:
    """The images in `root`, whose bytes have the digest `content`; ValueError if they have not, or are none."""
    found = folders.survey(root)
    texts, place = _prompts(found)
    images = folders.decode(cfg, root, found)
    if folders.digest(root, found) != content:
        raise ValueError(f"{root}: was changed while it was read; run the stage again")
    return parted(images, texts, place, _cut(cfg, place, len(texts), seed), {"kind": "folder", "sha256": content})


def prompts(cfg: Prompts, content: str, seed: int) -> Dataset:
    """The prompts of files whose bytes have the digest `content`; ValueError if they have not."""
    found = lists.files(cfg)
    made = lists.dataset(cfg, found, content, seed)
    if raw.digest(found) != content:
        raise ValueError(f"{cfg.path}: was changed while it was read; run the stage again")
    return made


def _prompts(found: Sequence[folders.Captioned]) -> tuple[list[Prompt], Tensor]:
    """Every prompt once, in the order of its text, and the place int64 [N] of each image's."""
    prompts = {each.prompt.text: each.prompt for each in found}
    order = {text: place for place, text in enumerate(sorted(prompts))}
    return [prompts[text] for text in order], torch.tensor([order[each.prompt.text] for each in found])


def _cut(cfg: Digits | Folder, place: Tensor, num_prompts: int, seed: int) -> Cut:
    test_fraction, num_heldout_prompts = cfg.test_fraction, cfg.num_heldout_prompts
    return cut(place, num_prompts, test_fraction=test_fraction, num_heldout_prompts=num_heldout_prompts, seed=seed)


def _every() -> list[tuple[int, int, int]]:
    """Digit, weight and slant of each of the digits' prompts."""
    return list(product(range(10), range(len(WEIGHTS)), range(len(SLANTS))))


def caption(digit: int, weight: int, slant: int) -> str:
    """The prompt that asks for them: "a bold left-slanted 7"."""
    return f"a {WEIGHTS[weight]} {SLANTS[slant]} {digit}"


def _facts(digit: int, weight: int, slant: int) -> dict[str, str]:
    return {"digit": str(digit), "weight": WEIGHTS[weight], "slant": SLANTS[slant]}


def mixture(cfg: Mixture, seed: int) -> Dataset:
    """Samples [N, d, 1, 1] of a mixture with equal weights."""
    rng = stream(seed, "dataset/mixture")
    means = torch.randn(cfg.num_components, cfg.dimension, generator=rng)
    means = cfg.radius * means / means.norm(dim=1, keepdim=True)
    stds = cfg.min_std + (cfg.max_std - cfg.min_std) * torch.rand(cfg.num_components, generator=rng)
    truth = GaussianMixture.even(means.tolist(), stds.tolist())
    prompts = component_prompts(cfg.num_components)

    def drawn(count: int, name: str) -> tuple[Tensor, Tensor]:
        source = stream(seed, name)
        which = _components(cfg, count, source)
        return truth.sample(which[:, None] + 1, source), which

    train, test = drawn(cfg.num_train, "dataset/train"), drawn(cfg.num_test, TESTING)
    return Dataset(
        train_images=train[0], train_prompts=train[1], test_images=test[0], test_prompts=test[1],
        prompts=[Prompt(text, {"component": str(k)}) for k, text in enumerate(prompts)],
        splits=["seen"] * len(prompts), space="points",
        facts={"kind": "mixture", "means": means.tolist(), "stds": stds.tolist()},
    )  # fmt: skip


def _components(cfg: Mixture, count: int, rng: Generator) -> Tensor:
    return torch.randint(cfg.num_components, (count,), generator=rng)


def _tertiles(values: Tensor) -> list[float]:
    return torch.quantile(values, torch.tensor([1 / 3, 2 / 3])).tolist()
