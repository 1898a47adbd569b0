"""What stock diffusers makes of a model's folder, by the very code of its README."""

import contextlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def readme(folder: Path) -> dict[str, Any]:
    """The names that the README's code leaves, its call made."""
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[0]
    names: dict[str, Any] = {}
    with contextlib.chdir(folder):
        exec(code, names)
    return names


def sampled(folder: Path, prompt: str, noise: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Latents that it makes of the noise."""
    names = readme(folder)
    return names["pipe"](prompt, latents=noise, generator=generator, output_type="latent", **names["call"])[0]
