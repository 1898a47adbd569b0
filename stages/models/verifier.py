"""What stands behind metrics and verifiable rewards: does an image show what its prompt asked for?

For the digits a small classifier names the digit, and stroke weight and slant are measured on the pixels exactly as
they were when the captions were written. For a folder of images the same classifier names the prompt, for words each
letter. For a mixture the posterior under the true densities names the component.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from stages.core import tensors
from stages.core.prompts import Prompt
from stages.models.mixture import GaussianMixture
from stages.models.names import Classifier, ClassifierConfig, NameVerifier, PromptVerifier, asked
from stages.models.scenes import load_scenes

WEIGHTS = ("thin", "medium", "bold")
SLANTS = ("right-slanted", "upright", "left-slanted")
"""What digits' captions call them, in the order of what is measured."""


class Verifier(Protocol):
    """Says what is right about images, and embeds them."""

    attributes: Sequence[str]
    """What a verdict has a column for."""

    def judge(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """bool [B, A]: whether image b shows what its prompt asks for, attribute by attribute."""
        ...

    def features(self, images: Tensor) -> Tensor:
        """[B, F], the space of Fréchet distance, precision and recall."""
        ...


@runtime_checkable
class Likelihood(Verifier, Protocol):
    """A verifier that also says how likely it finds what it is asked."""

    def log_likelihood(self, images: Tensor, prompts: Sequence[Prompt], softness: float) -> Tensor:
        """[B, A], with a gradient by the images: log-probability of each attribute that the prompts ask for.

        Where a quantity is measured, `softness` is how far its edges are softened.
        """
        ...


def ink(images: Tensor) -> Tensor:
    """Images [B, 1, H, W] in [0, 1] as [B, H, W]."""
    return images[:, 0].clamp(0, 1)


def ink_mass(images: Tensor) -> Tensor:
    """Sum of ink a image [B]: stroke weight."""
    return ink(images).sum((1, 2))


def slope(images: Tensor) -> Tensor:
    """dx/dy of the ink by image moments, mu_11 / mu_02 [B]; y points down: positive leans left, like a backslash."""
    pixels = ink(images).double()
    rows = torch.arange(pixels.shape[1], dtype=torch.float64, device=images.device)[None, :, None]
    columns = torch.arange(pixels.shape[2], dtype=torch.float64, device=images.device)[None, None, :]
    mass = pixels.sum((1, 2), keepdim=True).clamp_min(1e-9)
    dy = rows - (pixels * rows).sum((1, 2), keepdim=True) / mass
    dx = columns - (pixels * columns).sum((1, 2), keepdim=True) / mass
    return ((pixels * dx * dy).sum((1, 2)) / (pixels * dy.square()).sum((1, 2)).clamp_min(1e-9)).float()


def between(measured: Tensor, edges: Tensor, place: Tensor, softness: float) -> Tensor:
    """[B]: log-probability that `measured` [B] falls in bin `place` [B] of `edges` once logistic noise is added.

    The noise's scale is `softness` times the distance of the outermost edges.
    """
    scale = softness * (edges[-1] - edges[0])
    ends = torch.tensor([torch.inf], dtype=edges.dtype, device=edges.device)
    low, high = torch.cat([-ends, edges])[place], torch.cat([edges, ends])[place]
    above, below = (measured - low) / scale, (high - measured) / scale
    # P(low < y < high) = s(above) s(below) (1 - exp(-(above + below))), s the logistic function
    return logsigmoid(above) + logsigmoid(below) + torch.log1p(-(-(high - low) / scale).exp())


class DigitVerifier(nn.Module):
    """Digit by classifier, weight and slant by measurement against the dataset's thresholds."""

    mass_edges: Tensor
    slope_edges: Tensor

    def __init__(
        self,
        classifier: Classifier,
        values: Mapping[str, Sequence[str]],
        mass_edges: Sequence[float],
        slope_edges: Sequence[float],
    ) -> None:
        """`values` of digit, weight and slant, in this order."""
        super().__init__()
        self.classifier = classifier
        self.values = values
        self.attributes: Sequence[str] = tuple(values)
        self.register_buffer("mass_edges", torch.tensor(mass_edges), persistent=False)
        self.register_buffer("slope_edges", torch.tensor(slope_edges), persistent=False)

    @torch.no_grad()
    def measure(self, images: Tensor) -> Tensor:
        """int64 [B, 3]: digit, weight, slant, by their place among `values`."""
        digit = self.classifier(images).argmax(1)
        weight = torch.bucketize(ink_mass(images), self.mass_edges, right=True)
        slant = torch.bucketize(slope(images), self.slope_edges, right=True)
        return torch.stack([digit, weight, slant], dim=1)

    def judge(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """bool [B, 3]."""
        return self.measure(images) == asked(prompts, self.values).to(images.device)

    def log_likelihood(self, images: Tensor, prompts: Sequence[Prompt], softness: float) -> Tensor:
        """[B, 3], with a gradient: log-probabilities of what is asked for, measured edges being softened."""
        digit, weight, slant = asked(prompts, self.values).to(images.device).unbind(dim=1)
        named = self.classifier(images).log_softmax(dim=1).gather(1, digit[:, None])[:, 0]
        heavy = between(ink_mass(images), self.mass_edges, weight, softness)
        leaning = between(slope(images), self.slope_edges, slant, softness)
        return torch.stack([named, heavy, leaning], dim=1)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """[B, feature_dim], the classifier's last hidden layer."""
        return self.classifier.embed(images)


class MixtureVerifier:
    """The component with the highest posterior; features are the samples themselves."""

    def __init__(self, mixture: GaussianMixture) -> None:
        self.mixture = mixture
        self.attributes: Sequence[str] = ("component",)
        self.values = {"component": [str(k) for k in range(len(mixture.weights))]}

    def judge(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """bool [B, 1]."""
        return self.mixture.nearest(images)[:, None] == asked(prompts, self.values).to(images.device)

    def features(self, images: Tensor) -> Tensor:
        """[B, d]."""
        return images.flatten(1)


class NoVerifier:
    """Judges nothing and sees nothing: the verifier of prompts, whose samples rewards and metrics score."""

    attributes: Sequence[str] = ()

    def judge(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:  # noqa: ARG002 - the protocol's names
        """bool [B, 0]."""
        return torch.empty(len(images), 0, dtype=torch.bool, device=images.device)

    def features(self, images: Tensor) -> Tensor:  # noqa: ARG002
        """ValueError: there are none."""
        raise ValueError("verifier.kind=none: it has no features; take a metric that brings its own")


Learned = DigitVerifier | NameVerifier | PromptVerifier


def save_verifier(folder: Path, verifier: Learned) -> None:
    """Write the classifier's weights and what rebuilds it."""
    net = verifier.classifier
    tensors.save(folder / "classifier.safetensors", net.state_dict())
    facts = {"network": dataclasses.asdict(net.cfg), "image": net.shape, **_words(verifier)}  # type: ignore[call-overload]
    (folder / "verifier.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _words(verifier: Learned) -> Mapping[str, Any]:
    if isinstance(verifier, PromptVerifier):
        return {"kind": "prompts", "prompts": verifier.prompts}
    values = [{"name": name, "values": list(known)} for name, known in verifier.values.items()]
    if isinstance(verifier, NameVerifier):
        return {"kind": "names", "values": values}
    return {
        "kind": "digits",
        "values": values,
        "mass_edges": verifier.mass_edges.tolist(),
        "slope_edges": verifier.slope_edges.tolist(),
    }


def load_verifier(folder: Path, device: str | torch.device = "cpu") -> Verifier:
    """Read the verifier artefact in `folder`."""
    if (folder / "mixture.safetensors").is_file():
        return MixtureVerifier(GaussianMixture(**load_file(folder / "mixture.safetensors")).to(device))
    facts = json.loads((folder / "verifier.json").read_text(encoding="utf-8"))
    if facts["kind"] == "none":
        return NoVerifier()
    if facts["kind"] == "scenes":
        return load_scenes(folder, facts).to(device)
    weights = load_file(folder / "classifier.safetensors")
    classifier = Classifier(ClassifierConfig(**facts["network"]), tuple(facts["image"]), len(weights["head.bias"]))
    classifier.load_state_dict(weights)
    if facts["kind"] == "prompts":
        verifier: Learned = PromptVerifier(classifier, facts["prompts"])
    else:
        values = {entry["name"]: entry["values"] for entry in facts["values"]}
        edges = None if facts["kind"] == "names" else (facts["mass_edges"], facts["slope_edges"])
        verifier = DigitVerifier(classifier, values, *edges) if edges else NameVerifier(classifier, values)
    return verifier.eval().requires_grad_(False).to(device)
