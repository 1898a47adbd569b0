"""Samples of the same prompts from the same noise while a policy is trained: to see what becomes of them."""

import math
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from stages.core.config import config
from stages.core.pictures import pictures
from stages.core.ranges import Count
from stages.core.types import Reward, Show
from stages.io.dataset import Dataset, evenly
from stages.models import Student
from stages.samplers.spec import calls
from stages.samplers.student import Noise, draw
from stages.training.checks import finite

SIDE = 96
"""Pixels of a sample's side in the sheet, about."""
GAP = 2
WORDS = 60
"""Letters of a prompt in the name of its number."""


@config
class Gallery:
    """What is looked at, and how often."""

    every: Count
    """Iterations between two looks; there is one before the first, and one at the end."""
    prompts: Annotated[int, Field(ge=1, le=64)]
    """Half of them seen and half held out, as far as there are any."""
    samples: Annotated[int, Field(ge=1, le=64)]
    """Of each prompt, by the student's average, as it will be sampled."""


@dataclass(frozen=True)
class Looking:
    """A gallery of one training."""

    wanted: Gallery
    model: Student
    """In the place of whose network another is sampled."""
    dataset: Dataset
    reward: Reward
    seed: int
    batch_size: int
    """Samples that go through the network together."""
    show: Show

    @property
    def places(self) -> list[int]:
        """The prompts', seen ones first."""
        seen, heldout = self.dataset.places("seen"), self.dataset.places("heldout")
        most = min(self.wanted.prompts, len(seen) + len(heldout))
        apart = min(len(heldout), max(most // 2, most - len(seen)))
        return evenly(seen, most - apart) + evenly(heldout, apart)

    @property
    def forward(self) -> int:
        """Samples that go through the network, a look."""
        return round(self.scored * calls(self.model.spec))

    @property
    def scored(self) -> int:
        """Samples that the reward judges, a look."""
        return len(self.places) * self.wanted.samples

    def due(self, iteration: int, *, last: bool) -> bool:
        """Whether there is a look after so many iterations."""
        return last or iteration % self.wanted.every == 0

    def __call__(self, net: nn.Module, iteration: int) -> dict[str, float]:
        """Show the samples of `net`; the mean reward of each prompt's, by "prompt/<number> <its text>"."""
        places, each = self.places, self.wanted.samples
        advice = "look at the samples and at the reward; lower student_lr"
        rows = self.dataset.rows([place for place in places for _ in range(each)])
        made = draw(replace(self.model, net=net), rows, Noise(self.seed, "gallery"), batch_size=self.batch_size)
        images = self.model.space.decode(finite(made, "samples of the gallery", advice))
        prompts = [self.dataset.prompts[place] for place in places]
        found = self.reward(images, [prompt for prompt in prompts for _ in range(each)])
        if self.dataset.space != "points":
            self.show(iteration, "gallery", sheet(images, each))
        return {
            f"prompt/{number} {prompt.text[:WORDS]}": mean
            for number, (prompt, mean) in enumerate(
                zip(prompts, found.double().view(-1, each).mean(dim=1).tolist(), strict=True)
            )
        }


def sheet(images: Tensor, each: int) -> Image.Image:
    """A column a prompt of images [P * each, C, H, W], or of the middle frame of videos [P * each, C, T, H, W]."""
    still = images[:, :, images.shape[2] // 2] if images.dim() == 5 else images
    cells = torch.nn.functional.pad(_sized(still), (GAP,) * 4, value=1.0)
    columns = cells.unflatten(0, (-1, each)).permute(2, 1, 3, 0, 4)
    return pictures(columns.flatten(1, 2).flatten(2, 3)[None])[0]


def _sized(images: Tensor) -> Tensor:
    """Enlarged by whole pixels, or made smaller by their means."""
    side = max(images.shape[2:])
    if side < SIDE:
        return torch.nn.functional.interpolate(images, scale_factor=SIDE // side)
    return torch.nn.functional.avg_pool2d(images.float(), math.ceil(side / SIDE), ceil_mode=True)
