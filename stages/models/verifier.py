"""What stands behind metrics and verifiable rewards: does an image show what its prompt asked for?

For the digits a small classifier names the digit, and stroke weight and slant are measured on the pixels exactly as
they were when the captions were written. For a mixture the posterior under the true densities names the component.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stages.core import tensors
from stages.core.config import config
from stages.core.ranges import Size
from stages.models.mixture import GaussianMixture


class Verifier(Protocol):
    """Measures attributes of images, and embeds them."""

    attributes: Mapping[str, Sequence[str]]

    def measure(self, images: Tensor) -> Tensor:
        """int64 [B, A], the index of each attribute's value."""
        ...

    def features(self, images: Tensor) -> Tensor:
        """[B, F], the space of Fréchet distance, precision and recall."""
        ...


def ink(images: Tensor) -> Tensor:
    """Pixels in [0, 1] from images in [-1, 1]; float32 [B, H, W]."""
    return ((images[:, 0] + 1) / 2).clamp(0, 1)


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


@config
class ClassifierConfig:
    """The size of the digit classifier."""

    channels: Size
    """Feature maps of the first layer; the second has twice as many."""
    feature_dim: Size
    """Size of the layer before the logits: the feature space of the metrics."""


class Classifier(nn.Module):
    """A two-layer convolutional network on [B, 1, H, W], H and W divisible by 4."""

    def __init__(self, cfg: ClassifierConfig, size: int, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, cfg.channels, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2),
            nn.Conv2d(cfg.channels, 2 * cfg.channels, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(),
            nn.Linear(2 * cfg.channels * (size // 4) ** 2, cfg.feature_dim), nn.SiLU(),
        )  # fmt: skip
        self.head = nn.Linear(cfg.feature_dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, num_classes]."""
        return self.head(self.body(images))


class DigitVerifier(nn.Module):
    """Digit by classifier, weight and slant by measurement against the dataset's thresholds."""

    mass_edges: Tensor
    slope_edges: Tensor

    def __init__(
        self,
        classifier: Classifier,
        attributes: Mapping[str, Sequence[str]],
        mass_edges: Sequence[float],
        slope_edges: Sequence[float],
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.attributes = attributes
        self.register_buffer("mass_edges", torch.tensor(mass_edges), persistent=False)
        self.register_buffer("slope_edges", torch.tensor(slope_edges), persistent=False)

    @torch.no_grad()
    def measure(self, images: Tensor) -> Tensor:
        """int64 [B, 3]: digit, weight, slant."""
        digit = self.classifier(images).argmax(1)
        weight = torch.bucketize(ink_mass(images), self.mass_edges, right=True)
        slant = torch.bucketize(slope(images), self.slope_edges, right=True)
        return torch.stack([digit, weight, slant], dim=1)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """[B, feature_dim], the classifier's last hidden layer."""
        return self.classifier.body(images)


class MixtureVerifier:
    """The component with the highest posterior; features are the samples themselves."""

    def __init__(self, mixture: GaussianMixture) -> None:
        self.mixture = mixture
        self.attributes: Mapping[str, Sequence[str]] = {"component": [str(k) for k in range(len(mixture.weights))]}

    def measure(self, images: Tensor) -> Tensor:
        """int64 [B, 1]."""
        t = torch.zeros(len(images), device=images.device)
        return self.mixture.posterior(images, t, self.mixture.null(len(images))).argmax(1, keepdim=True)

    def features(self, images: Tensor) -> Tensor:
        """[B, d]."""
        return images.flatten(1)


def save_verifier(folder: Path, verifier: DigitVerifier, cfg: ClassifierConfig, size: int) -> None:
    """Write the classifier's weights and what rebuilds it."""
    tensors.save(folder / "classifier.safetensors", verifier.classifier.state_dict())
    facts = {
        "attributes": verifier.attributes,
        "mass_edges": verifier.mass_edges.tolist(),
        "slope_edges": verifier.slope_edges.tolist(),
        "channels": cfg.channels,
        "feature_dim": cfg.feature_dim,
        "size": size,
    }
    (folder / "verifier.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def load_verifier(folder: Path, device: str | torch.device = "cpu") -> Verifier:
    """Read the verifier artefact in `folder`."""
    if (folder / "mixture.safetensors").is_file():
        return MixtureVerifier(GaussianMixture(**load_file(folder / "mixture.safetensors")).to(device))
    facts = json.loads((folder / "verifier.json").read_text(encoding="utf-8"))
    cfg = ClassifierConfig(channels=facts["channels"], feature_dim=facts["feature_dim"])
    classifier = Classifier(cfg, facts["size"], len(facts["attributes"]["digit"]))
    classifier.load_state_dict(load_file(folder / "classifier.safetensors"))
    verifier = DigitVerifier(classifier, facts["attributes"], facts["mass_edges"], facts["slope_edges"])
    return verifier.eval().requires_grad_(False).to(device)
