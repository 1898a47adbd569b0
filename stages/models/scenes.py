"""What judges scenes of shapes: exact measurements for the verdict, a small network for the features.

The network learns to tell which objects a scene holds, and how many; only its last hidden layer is used, as the space
of Fréchet distance, precision and recall.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from stages.core import tensors
from stages.core.config import config
from stages.core.prompts import Prompt
from stages.core.ranges import Size
from stages.shapes.seeing import see
from stages.shapes.verifier import judge

JUDGED = ("count", "shape", "color", "binding")
"""As many objects as asked for; of the right shapes; of the right colors; and each object its own, where it belongs."""
_MOST = 5
"""Objects that the network counts to."""
_WEIGHTS = "embedding.safetensors"


@config
class EmbeddingConfig:
    """The size of the network behind the features."""

    channels: Size
    """Feature maps of the first layer; the others have twice as many."""
    feature_dim: Size
    """Size of the layer before the logits: the feature space of the metrics."""


class Embedding(nn.Module):
    """Three convolutions and a hidden layer on [B, 3, S, S], S divisible by 8."""

    def __init__(self, cfg: EmbeddingConfig, size: int, num_shapes: int, num_colors: int) -> None:
        super().__init__()
        width = 2 * cfg.channels
        self.body = nn.Sequential(
            nn.Conv2d(3, cfg.channels, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2),
            nn.Conv2d(cfg.channels, width, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2),
            nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(),
            nn.Linear(width * (size // 8) ** 2, cfg.feature_dim), nn.SiLU(),
        )  # fmt: skip
        self.head = nn.Linear(cfg.feature_dim, num_shapes * num_colors + _MOST + 1)

    def embed(self, images: Tensor) -> Tensor:
        """The last hidden layer [B, feature_dim] of images in [0, 1]."""
        return self.body(2 * images - 1)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Of `labels`: whether each thing is there, and how many objects."""
        logits = self.head(self.embed(images))
        things = labels.shape[1] - 1
        there = F.binary_cross_entropy_with_logits(logits[:, :things], labels[:, :things])
        return there + F.cross_entropy(logits[:, things:], labels[:, things].long())


def labels(images: Tensor, num_shapes: int, num_colors: int) -> Tensor:
    """float32 [B, things + 1]: which things the images hold, by shape and color, and how many objects."""
    seen, count = see(images, num_shapes, num_colors), len(images)
    found = torch.zeros(count, num_shapes * num_colors + 1)
    named = (seen.shape >= 0) & (seen.color >= 0)
    found[seen.image[named], seen.shape[named] * num_colors + seen.color[named]] = 1
    found[:, -1] = torch.from_numpy(np.bincount(seen.image, minlength=count).clip(0, _MOST))
    return found


class SceneVerifier(nn.Module):
    """Objects by connected components, colors and places by measurement; see `stages/shapes`."""

    def __init__(self, embedding: Embedding, num_shapes: int, num_colors: int) -> None:
        super().__init__()
        self.embedding, self.num_shapes, self.num_colors = embedding, num_shapes, num_colors
        self.attributes: Sequence[str] = JUDGED

    def judge(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """bool [B, 4]."""
        found = judge(images, [prompt.facts for prompt in prompts], self.num_shapes, self.num_colors)
        return torch.stack([found.count, found.shape, found.color, found.correct], dim=1).to(images.device)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """[B, feature_dim], the network's last hidden layer."""
        return self.embedding.embed(images)


def save_scenes(folder: Path, verifier: SceneVerifier, cfg: EmbeddingConfig, size: int) -> None:
    """Write the network's weights and what rebuilds it."""
    tensors.save(folder / _WEIGHTS, verifier.embedding.state_dict())
    facts = {
        "kind": "scenes",
        "num_shapes": verifier.num_shapes,
        "num_colors": verifier.num_colors,
        "channels": cfg.channels,
        "feature_dim": cfg.feature_dim,
        "size": size,
    }
    (folder / "verifier.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def load_scenes(folder: Path, facts: Mapping[str, Any]) -> SceneVerifier:
    """Read what `save_scenes` wrote."""
    cfg = EmbeddingConfig(channels=facts["channels"], feature_dim=facts["feature_dim"])
    embedding = Embedding(cfg, facts["size"], facts["num_shapes"], facts["num_colors"])
    embedding.load_state_dict(load_file(folder / _WEIGHTS))
    return SceneVerifier(embedding, facts["num_shapes"], facts["num_colors"]).eval().requires_grad_(False)
