"""What stock diffusers makes of a checkpoint of shapes, or of a student of it, judged by the exact verifier.

The prompts and the noise are those of `evaluate`: where a sampler draws no noise of its own, its images are ours.
"""

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.cells.bench import SPLITS, in_turn
from stages.io import artefacts
from stages.io.dataset import Dataset
from stages.models import load
from stages.models.export import INDEX
from stages.samplers.student import Noise, draw
from stages.shapes.verifier import by_task, judge

BATCH = 64


def score(folder: Path, dataset: Path, *, samples: int, steps: int, guidance: float) -> dict[str, Any]:
    """By split: the share of `samples` images that show what was asked for, in all and by task, and ours beside it.

    A student is sampled as its own README says, a base by DDIM in so many steps with so much guidance.
    """
    data, seed = Dataset.load(dataset), int(artefacts.read_manifest(dataset)["seed"])
    pipe, call = by_readme(folder) if is_student(folder) else by_ddim(folder, steps, guidance)
    pipe.set_progress_bar_config(disable=True)
    found: dict[str, Any] = {}
    for split in SPLITS:
        places = in_turn(data, split, samples)
        prompts, noise = data.texts(places), Noise(seed, f"evaluate/{split}")
        images = sampled(pipe, call, prompts, noise.at(0, len(prompts), shape_of(pipe)))
        facts = [data.prompts[place].facts for place in places]
        shown = data.facts["num_shapes"], data.facts["num_colors"]
        right = judge(images, facts, *shown).correct
        found[split] = {"score": right.float().mean().item(), "by task": dict(by_task(right, facts))}
        if is_student(folder):
            ours = own(folder, prompts, noise)
            found[split]["ours"] = judge(ours, facts, *shown).correct.float().mean().item()
            found[split]["mean difference of a pixel"] = (images - ours).abs().mean().item()
    return found


def is_student(folder: Path) -> bool:
    """Or the folder of a pipeline of its own."""
    return (folder / INDEX).is_file()


def by_ddim(folder: Path, steps: int, guidance: float) -> tuple[Any, dict[str, Any]]:
    """The pipeline of a base, and what it is asked for."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    return pipe, {"num_inference_steps": steps, "guidance_scale": guidance}


def by_readme(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The names that the code of a student's README leaves: its pipeline, and the words of its call."""
    [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    with contextlib.chdir(folder), unwarned():
        exec(code, names)
    return names["pipe"], names["call"]


def shape_of(pipe: Any) -> tuple[int, ...]:
    """Of one latent."""
    size = pipe.unet.config.sample_size
    return pipe.unet.config.in_channels, size, size


def sampled(pipe: Any, call: Mapping[str, Any], prompts: Sequence[str], noise: Tensor) -> Tensor:
    """Images [n, 3, H, W] in [0, 1] by the stock pipeline, from `noise`; what its scheduler draws comes from seed 0."""
    rng, made = torch.Generator().manual_seed(0), []
    for first in range(0, len(prompts), BATCH):
        rows = slice(first, first + BATCH)
        given = {**call, "latents": noise[rows], "generator": rng, "output_type": "pt"}
        with unwarned():
            made.append(pipe(prompt=list(prompts[rows]), **given).images)
    return torch.cat(made)


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """diffusers' schedulers give numpy tensors in a way that numpy means to forbid."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        yield


def own(folder: Path, prompts: Sequence[str], noise: Noise) -> Tensor:
    """The same by our sampler."""
    kinds = sorted(set(prompts))
    model = load(folder, kinds)
    rows = torch.tensor([kinds.index(prompt) + 1 for prompt in prompts])[:, None]
    return model.space.decode(draw(model, rows, noise, batch_size=BATCH))
