"""The frozen judge behind metrics and verifiable rewards, trained on the train split only."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor, nn

from stages.core import tensors
from stages.core.config import config
from stages.core.messages import shown
from stages.core.ranges import Count, NonNegative, Rate
from stages.core.rng import seeded, stream
from stages.core.types import Run, Sink
from stages.io.artefacts import adopt, write_json
from stages.io.dataset import Dataset
from stages.io.expected import Expected, Inputs, outline
from stages.io.job import Job
from stages.models.mixture import GaussianMixture
from stages.models.names import Classifier, ClassifierConfig, NameVerifier, PromptVerifier, asked
from stages.models.scenes import Embedding, EmbeddingConfig, SceneVerifier, labels, save_scenes
from stages.models.verifier import SLANTS, WEIGHTS, DigitVerifier, load_verifier, save_verifier
from stages.words.spelling import attributes

N = TypeVar("N", bound=nn.Module)
VALUES = MappingProxyType({"digit": tuple(map(str, range(10))), "weight": WEIGHTS, "slant": SLANTS})
"""Of a digit's attributes, each in the order of what is measured."""
JUDGED: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "classifier": ("digits",), "scenes": ("shapes",), "exact": ("mixture",),
        "none": ("prompts", "folder"), "prompts": ("folder", "prompts"), "letters": ("words",),
    }
)  # fmt: skip
"""What kinds of dataset a kind of verifier is for; the first of them is what it is to be taken for."""
MOST_PROMPTS = 256
LEAST_IMAGES = 8
"""What a small classifier can tell apart, and learn a prompt from."""


@config
class Trained:
    """What a small classifier names: `classifier` the digit, whose weight and slant are measured; `prompts` which of
    them an image shows; `letters` a word's letter at each place.
    """

    kind: Literal["classifier", "prompts", "letters"]
    network: ClassifierConfig
    iterations: Count
    batch_size: Count
    lr: Rate
    max_shift: NonNegative
    """Training images are moved by up to this many pixels either way."""


@config
class Scenes:
    """The exact measurements of `stages/shapes`; a network is trained for features alone."""

    kind: Literal["scenes"]
    network: EmbeddingConfig
    iterations: Count
    batch_size: Count
    lr: Rate


@config
class Exact:
    """The posterior under a mixture's true densities."""

    kind: Literal["exact"]


@config
class Nothing:
    """None: rewards and metrics of the parameters score samples, and nothing else does."""

    kind: Literal["none"]


AnyVerifier = Trained | Scenes | Exact | Nothing
Config = Annotated[AnyVerifier, Field(discriminator="kind")]


def expect(cfg: AnyVerifier, _job: Job, inputs: Inputs) -> Expected:
    """What it judges."""
    data = outline(inputs)
    if data:
        _judges(cfg, data.kind)
        if cfg.kind == "prompts" and data.rarest:
            _can_be_told_apart(data.num_seen, *data.rarest)
    if isinstance(cfg, Nothing):
        return Expected(attributes=())
    return Expected(attributes=data and data.attributes)


def _judges(cfg: AnyVerifier, kind: str) -> None:
    if kind not in JUDGED[cfg.kind]:
        valid = next(each for each, judged in JUDGED.items() if judged[0] == kind)
        raise ValueError(f"verifier.kind={cfg.kind} does not judge a dataset of {kind}; {valid} does: verifier={valid}")


def _can_be_told_apart(number: int, rarest: str, count: int) -> None:
    """ValueError where there are too many prompts, or too few training images of the rarest."""
    if count < LEAST_IMAGES:
        raise ValueError(
            f"verifier.kind=prompts: {count} training images show {shown(rarest)}, and it learns a prompt from "
            f"{LEAST_IMAGES} at least; add images, hold fewer of them out, or take verifier=none and rewards of its own"
        )
    if number > MOST_PROMPTS:
        raise ValueError(
            f"verifier.kind=prompts: the dataset has {number} prompts, and it tells at most {MOST_PROMPTS} apart"
        )


def plan(_cfg: AnyVerifier, _job: Job) -> list[dict[str, Any]]:
    """One unit."""
    return [{"id": "all"}]


def work(cfg: AnyVerifier, job: Job, _unit: Mapping[str, Any], run: Run) -> None:
    """Train, or write down, the verifier in `run.out`."""
    data = Dataset.load(job.input("dataset"))
    _judges(cfg, data.facts["kind"])
    if isinstance(cfg, Nothing):
        write_json(run.out / "verifier.json", {"kind": "none"})
        return
    if isinstance(cfg, Exact):
        truth = GaussianMixture.even(data.facts["means"], data.facts["stds"])
        tensors.save(run.out / "mixture.safetensors", truth.state_dict())
        return
    if isinstance(cfg, Scenes):
        embedding = learn_scenes(cfg, data, job.seed, run.sink)
        verifier = SceneVerifier(embedding, data.facts["num_shapes"], data.facts["num_colors"])
        save_scenes(run.out, verifier, cfg.network, data.sample_shape[-1])
        return
    learn = {"classifier": _of_digits, "prompts": _of_prompts, "letters": _of_letters}[cfg.kind]
    save_verifier(run.out, learn(cfg, data, job.seed, run.sink))


def _of_digits(cfg: Trained, data: Dataset, seed: int, sink: Sink) -> DigitVerifier:
    digit = asked(data.prompts, VALUES)[data.train_prompts, 0]
    classifier = train(cfg, data.train_images, digit[:, None], [len(VALUES["digit"])], seed, sink)
    return DigitVerifier(classifier, VALUES, data.facts["mass_edges"], data.facts["slope_edges"])


def _of_prompts(cfg: Trained, data: Dataset, seed: int, sink: Sink) -> PromptVerifier:
    texts = [prompt.text for prompt in data.prompts]
    shows = data.train_prompts.bincount(minlength=len(texts))
    _can_be_told_apart(len(texts), texts[int(shows.argmin())], int(shows.min()))
    return PromptVerifier(train(cfg, data.train_images, data.train_prompts[:, None], [len(texts)], seed, sink), texts)


def _of_letters(cfg: Trained, data: Dataset, seed: int, sink: Sink) -> NameVerifier:
    letters = data.facts["letters"]
    values = dict(zip(attributes(len(letters)), letters, strict=True))
    names = asked(data.prompts, values)[data.train_prompts]
    return NameVerifier(train(cfg, data.train_images, names, list(map(len, letters)), seed, sink), values)


def train(cfg: Trained, images: Tensor, names: Tensor, counts: Sequence[int], seed: int, sink: Sink) -> Classifier:
    """A classifier of images [N, C, H, W] in [0, 1] by what they are called in A ways, int64 [N, A].

    Of the first way there are counts[0] names, and so on; their logits stand one after another.
    """
    _, channels, height, width = images.shape
    with seeded(seed):
        classifier = Classifier(cfg.network, (channels, height, width), sum(counts))

    def loss(index: Tensor, rng: Generator) -> Tensor:
        logits = classifier(shifted(images[index], cfg.max_shift, rng))
        ways = zip(logits.split(list(counts), dim=1), names[index].T, strict=True)
        return torch.stack([F.cross_entropy(each, name, label_smoothing=0.05) for each, name in ways]).sum()

    return _fitted(classifier, loss, cfg, len(images), seed, sink)


def learn_scenes(cfg: Scenes, data: Dataset, seed: int, sink: Sink) -> Embedding:
    """A network that tells what the verifier sees in training images."""
    num_shapes, num_colors = data.facts["num_shapes"], data.facts["num_colors"]
    with seeded(seed):
        embedding = Embedding(cfg.network, data.sample_shape[-1], num_shapes, num_colors)
    known = torch.cat([labels(images, num_shapes, num_colors) for images in data.train_images.split(1024)])

    def loss(index: Tensor, _rng: Generator) -> Tensor:
        return embedding.loss(data.train_images[index], known[index])

    return _fitted(embedding, loss, cfg, len(known), seed, sink)


def _fitted(
    net: N, loss: Callable[[Tensor, Generator], Tensor], cfg: Trained | Scenes, rows: int, seed: int, sink: Sink
) -> N:
    """`net`, trained to lower `loss(rows, rng)`; learning rates fall to 0 along a half cosine."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=cfg.lr)
    for iteration in range(cfg.iterations):
        rng = stream(seed, "verifier", iteration)
        index = torch.randint(rows, (cfg.batch_size,), generator=rng)
        value = loss(index, rng)
        for group in optimiser.param_groups:
            group["lr"] = cfg.lr * 0.5 * (1 + math.cos(math.pi * iteration / cfg.iterations))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        if (iteration + 1) % 50 == 0 or iteration + 1 == cfg.iterations:
            sink(iteration + 1, {"loss": value.item()})
    return net.eval().requires_grad_(False)


def shifted(images: Tensor, reach: float, rng: Generator) -> Tensor:
    """Images [B, C, H, W] moved by up to `reach` pixels in both directions, bilinear, edges repeated."""
    sides = torch.tensor([images.shape[-1], images.shape[-2]])  # x and y, as affine_grid has them
    offset = (2 * torch.rand(len(images), 2, generator=rng) - 1) * reach * 2 / sides
    transform = torch.eye(2, 3).repeat(len(images), 1, 1)
    transform[:, :, 2] = offset
    grid = F.affine_grid(transform, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def finish(_cfg: AnyVerifier, job: Job, parts: Sequence[Path], out: Path) -> Mapping[str, float]:
    """Agreement with the labels of real test images, by attribute and in all of them; of none nothing."""
    adopt(parts[0], out)
    data, verifier = Dataset.load(job.input("dataset")), load_verifier(out)
    if not data.has_real or not verifier.attributes:
        return {}
    agrees = verifier.judge(data.test_images, [data.prompts[place] for place in data.test_prompts.tolist()])
    metrics = {f"agreement_{name}": agrees[:, i].float().mean().item() for i, name in enumerate(verifier.attributes)}
    metrics["agreement_all"] = agrees.all(dim=1).float().mean().item()
    write_json(out / "metrics.json", metrics)
    return metrics
