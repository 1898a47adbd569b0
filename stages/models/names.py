"""What a small classifier names of an image: which prompt it shows, or each of several attributes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from stages.core.config import config
from stages.core.messages import listed, shown
from stages.core.prompts import Prompt
from stages.core.ranges import Size


def asked(prompts: Sequence[Prompt], values: Mapping[str, Sequence[str]]) -> Tensor:
    """int64 [B, A], the place of each attribute's value among `values`; ValueError where a prompt does not say it."""
    mute = [prompt for prompt in prompts if not values.keys() <= prompt.facts.keys()]
    if mute:
        raise ValueError(f"prompt {shown(mute[0].text)}: its facts do not say all of {listed(values)}")
    rows = [[known.index(prompt.facts[name]) for name, known in values.items()] for prompt in prompts]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, len(values))


@config
class ClassifierConfig:
    """The size of the classifier."""

    channels: Size
    """Feature maps of the first layer; the second has twice as many."""
    feature_dim: Size
    """Size of the layer before the logits: the feature space of the metrics."""


class Classifier(nn.Module):
    """A two-layer convolutional network on images of `shape` (C, H, W), H and W at least 4."""

    def __init__(self, cfg: ClassifierConfig, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.cfg, self.shape = cfg, shape
        colours, height, width = shape
        self.body = nn.Sequential(
            nn.Conv2d(colours, cfg.channels, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2),
            nn.Conv2d(cfg.channels, 2 * cfg.channels, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(),
            nn.Linear(2 * cfg.channels * (height // 4) * (width // 4), cfg.feature_dim), nn.SiLU(),
        )  # fmt: skip
        self.head = nn.Linear(cfg.feature_dim, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, num_classes] of images in [0, 1]."""
        return self.head(self.embed(images))

    def embed(self, images: Tensor) -> Tensor:
        """The last hidden layer [B, feature_dim]."""
        return self.body(2 * images - 1)


class NameVerifier(nn.Module):
    """Names every attribute of a list, as a prompt's facts state them."""

    def __init__(self, classifier: Classifier, values: Mapping[str, Sequence[str]]) -> None:
        """`values` of each attribute in the order of the classifier's logits, one attribute after another."""
        super().__init__()
        self.classifier = classifier
        self.values = {name: tuple(known) for name, known in values.items()}
        self.attributes: Sequence[str] = tuple(self.values)

    def _logits(self, images: Tensor) -> tuple[Tensor, ...]:
        """[B, n] of each attribute."""
        return self.classifier(images).split([len(known) for known in self.values.values()], dim=1)

    @torch.no_grad()
    def judge(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """bool [B, A]; ValueError where a prompt does not say an attribute."""
        named = torch.stack([each.argmax(dim=1) for each in self._logits(images)], dim=1)
        return named == asked(prompts, self.values).to(images.device)

    def log_likelihood(self, images: Tensor, prompts: Sequence[Prompt], softness: float) -> Tensor:  # noqa: ARG002
        """[B, A], with a gradient: log-probabilities of what is asked for; nothing is measured, or softened."""
        wanted = asked(prompts, self.values).to(images.device).unbind(dim=1)
        ways = zip(self._logits(images), wanted, strict=True)
        return torch.stack([each.log_softmax(dim=1).gather(1, name[:, None])[:, 0] for each, name in ways], dim=1)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """[B, feature_dim], the classifier's last hidden layer."""
        return self.classifier.embed(images)


class PromptVerifier(nn.Module):
    """Names which of a list of prompts an image shows."""

    def __init__(self, classifier: Classifier, prompts: Sequence[str]) -> None:
        """`prompts` in the order of the classifier's logits."""
        super().__init__()
        self.classifier, self.prompts = classifier, tuple(prompts)
        self.attributes: Sequence[str] = ("prompt",)
        self._place = {text: place for place, text in enumerate(self.prompts)}

    @torch.no_grad()
    def judge(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        """bool [B, 1]; ValueError where a prompt is none of the list."""
        return self.classifier(images).argmax(1, keepdim=True) == self._wanted(prompts, images)

    def log_likelihood(self, images: Tensor, prompts: Sequence[Prompt], softness: float) -> Tensor:  # noqa: ARG002
        """[B, 1], with a gradient: the log-probability of the prompt; nothing is measured that could be softened."""
        return self.classifier(images).log_softmax(dim=1).gather(1, self._wanted(prompts, images))

    def _wanted(self, prompts: Sequence[Prompt], images: Tensor) -> Tensor:
        strange = [prompt.text for prompt in prompts if prompt.text not in self._place]
        if strange:
            raise ValueError(
                f"prompt {shown(strange[0])}: the verifier does not know it; it knows: {listed(self._place)}"
            )
        wanted = torch.tensor([[self._place[prompt.text]] for prompt in prompts], dtype=torch.int64)
        return wanted.reshape(-1, 1).to(images.device)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """[B, feature_dim], the classifier's last hidden layer."""
        return self.classifier.embed(images)
