"""A look at held-out prompts while a policy is trained: a model's samples for them, scored by the arm's own rewards."""

from dataclasses import dataclass, replace

from torch import nn

from stages.core.types import Reward
from stages.io.dataset import Dataset, evenly
from stages.models import Student
from stages.samplers.spec import calls
from stages.samplers.student import Noise, draw
from stages.training.checks import finite


@dataclass(frozen=True)
class Look:
    """Always the same prompts and noise, so that two looks differ by the network alone."""

    model: Student
    """In the place of whose network another is sampled."""
    dataset: Dataset
    reward: Reward
    num_samples: int
    seed: int
    batch_size: int
    """Samples that go through the network together."""

    @property
    def forward(self) -> int:
        """Samples that go through the network, a look."""
        return round(self.num_samples * calls(self.model.spec))

    @property
    def scored(self) -> int:
        """Samples that the reward judges, a look."""
        return self.num_samples

    def __call__(self, net: nn.Module) -> float:
        """The mean reward. ValueError where the samples or their rewards are not finite."""
        places = evenly(self.dataset.places("heldout"), self.num_samples)
        advice = "look at the samples and at the reward; lower student_lr"
        model, noise = replace(self.model, net=net), Noise(self.seed, "heldout")
        made = draw(model, self.dataset.rows(places), noise, batch_size=self.batch_size)
        images = self.model.space.decode(finite(made, "samples of held-out prompts", advice))
        found = self.reward(images, [self.dataset.prompts[place] for place in places])
        return finite(found.double(), "reward of held-out prompts", advice).mean().item()
