"""What stock diffusers makes of a checkpoint, and of a model's folder by the very code of its README."""

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import torch
from torch import Tensor

from stages.core.guidance import guided
from stages.models.pretrained import Pretrained
from stages.samplers.student import Noise
from tests.models.families import tiny
from tests.models.families.parity import PARITY


def pipeline(rig: Any) -> Any:
    """The checkpoint's own."""
    pipe = getattr(diffusers, rig.at.pipeline).from_pretrained(rig.at.folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def both(rig: Any, *, steps: int, guidance: float) -> tuple[Tensor, Tensor, list[float]]:
    """Latents by our velocity and by the pipeline, each from one noise, by the steps of its scheduler; their times."""
    pipe, noise, special = pipeline(rig), rig.noise(1), PARITY[rig.name]
    pipe.scheduler = special.scheduler(pipe.scheduler)
    call = {
        "height": rig.at.options.height, "width": rig.at.options.width, "num_inference_steps": steps,
        "output_type": "latent", "return_dict": False, special.scale: special.given(guidance), **special.call,
    }  # fmt: skip
    if rig.at.family.text_length is not None:
        call["max_sequence_length"] = rig.at.text_length
    with unwarned():
        theirs = special.unpacked(pipe(prompt=tiny.PROMPTS[0], latents=special.packed(noise, rig), **call)[0], rig)
    options = replace(rig.at.options, above_t_max="stock")
    net = Pretrained(rig.net.body, rig.table, replace(rig.at, options=options))
    velocity = guided(net, 1.0 if rig.at.options.embedded_guidance is not None else guidance)
    cond, x = torch.tensor([[1]]), noise
    times, asked = (get(pipe.scheduler, rig) for get in (special.times, special.asked))
    with torch.no_grad():
        for (now, then), told in zip(pairwise(times), asked, strict=False):
            x = x + (then - now) * velocity(x, torch.tensor([told]), cond)
    return special.end(x, rig), theirs, times


def readme(folder: Path) -> dict[str, Any]:
    """The names that the README's code leaves, its call made."""
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[0]
    names: dict[str, Any] = {}
    with contextlib.chdir(folder), unwarned():
        exec(code, names)
    return names


def sampled(folder: Path, rig: Any, prompt: str, noise: Noise) -> Tensor:
    """Latents that it makes of the noise, and of what our sampler draws on its way."""
    names, special = readme(folder), PARITY[rig.name]
    nodes = iter(range(1, 10**6))

    def draw(_shape: Any, **_words: Any) -> Tensor:
        return special.renoised(noise.at(0, 1, rig.space.shape, next(nodes)), rig)

    with drawn(draw), unwarned():
        x = special.packed(noise.at(0, 1, rig.space.shape), rig)
        made = names["pipe"](prompt=prompt, latents=x, output_type="latent", return_dict=False, **names["call"])[0]
    return special.unpacked(made, rig)


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """diffusers' schedulers give numpy tensors in a way that numpy means to forbid."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        yield


@contextlib.contextmanager
def drawn(source: Callable[..., Tensor]) -> Iterator[None]:
    """Schedulers draw their noise from `source`, a function of a shape."""
    from diffusers.schedulers import scheduling_flow_match_euler_discrete as flow
    from diffusers.schedulers import scheduling_lcm as lcm

    with mock.patch.object(flow, "randn_tensor", source), mock.patch.object(lcm, "randn_tensor", source):
        yield
