"""What stock diffusers makes of a saved model, by the pipeline that its folder carries."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from stages.samplers.student import Noise


def stock_images(
    folder: Path, prompts: Sequence[str], noise: Noise, shape: tuple[int, ...], nodes: Iterable[int] = (), **asked: Any
) -> Tensor:
    """Samples of `shape`, one a prompt, from our noise.

    What a rule draws on its way is ours too, that of `nodes` in turn: diffusers' own generator has other numbers.
    """
    stock = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    stock.set_progress_bar_config(disable=True)
    later = iter([noise.at(0, len(prompts), shape, node) for node in nodes])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *_a, **_k: next(later))
        made = stock(list(prompts), latents=noise.at(0, len(prompts), shape), output_type="pt", **asked).images
    assert next(later, None) is None, "it draws as often as the rule does"
    return made
