"""A look at a policy while it is trained: its samples for some prompts, and one number of them.

Of held-out prompts that is the arm's own reward; of those that training images show, the distance to these.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from stages.core.frechet import between_gaussians, moments
from stages.core.prompts import Prompt
from stages.core.types import Reward
from stages.io.dataset import Dataset, evenly
from stages.models import Student
from stages.samplers.spec import calls
from stages.samplers.student import Noise, draw
from stages.training.checks import finite

ADVICE = "look at the samples and at the reward; lower student_lr"


@dataclass(frozen=True)
class Look:
    """Always the same prompts and noise, so that two looks differ by the network alone."""

    model: Student
    """In the place of whose network another is sampled."""
    dataset: Dataset
    name: str
    """Of the look, and of its stream of noise."""
    places: Sequence[int]
    """Of the prompts, one a sample."""
    measure: Callable[[Tensor, Sequence[Prompt]], float]
    """One number of images and their prompts."""
    judges: bool
    """Whether that asks the reward."""
    seed: int
    batch_size: int
    """Samples that go through the network together."""

    @property
    def forward(self) -> int:
        """Samples that go through the network, a look."""
        return round(len(self.places) * calls(self.model.spec))

    @property
    def scored(self) -> int:
        """Samples that the reward judges, a look."""
        return len(self.places) if self.judges else 0

    def __call__(self, net: nn.Module) -> float:
        """The number. ValueError where the samples, or what is made of them, are not finite."""
        model, noise = replace(self.model, net=net), Noise(self.seed, self.name)
        made = draw(model, self.dataset.rows(self.places), noise, batch_size=self.batch_size)
        images = self.model.space.decode(finite(made, f"samples for stop.{self.name}", ADVICE))
        return self.measure(images, [self.dataset.prompts[place] for place in self.places])


def heldout(model: Student, dataset: Dataset, reward: Reward, num_samples: int, seed: int, batch_size: int) -> Look:
    """At the mean reward of `num_samples` samples for prompts that are never trained on."""

    def measure(images: Tensor, prompts: Sequence[Prompt]) -> float:
        return finite(reward(images, prompts).double(), "reward of held-out prompts", ADVICE).mean().item()

    places = evenly(dataset.places("heldout"), num_samples)
    return Look(model, dataset, "heldout", places, measure, judges=True, seed=seed, batch_size=batch_size)


def distance(
    model: Student,
    dataset: Dataset,
    features: Callable[[Tensor], Tensor],
    num_samples: int,
    seed: int,
    batch_size: int,
) -> Look:
    """At the Fréchet distance between `num_samples` training images and as many samples for what these show.

    In the space of `features`. Fewer images than that are taken in turn.
    """
    chosen = evenly(range(len(dataset.train_images)), num_samples)
    real = moments(features(dataset.train_images[chosen]))

    def measure(images: Tensor, _prompts: Sequence[Prompt]) -> float:
        return between_gaussians(moments(features(images)), real)

    places = dataset.train_prompts[chosen].tolist()
    return Look(model, dataset, "distance", places, measure, judges=False, seed=seed, batch_size=batch_size)
