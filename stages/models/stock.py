"""What the folder of a model made of a checkpoint says to people who have diffusers and not fewstep."""

import json
from pathlib import Path
from typing import Literal

from stages.core.spec import SamplerSpec
from stages.models.checkpoint import HUB, Checkpoint

LORA = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights_2.safetensors")
"""Files of adapters, of the first network that denoises, and of the second where there are two."""
_SCHEDULER = "scheduler"


def write(folder: Path, at: Checkpoint, spec: SamplerSpec, *, tuned: Literal["full", "lora"]) -> None:
    """README.md with the call that samples as we do, and the scheduler that it takes."""
    found = None if spec.field else at.family.scheduler(at, spec)
    if found is None:
        told = f"It steps by {spec.called}, which diffusers has no scheduler for: sample it with `fewstep sample`.\n"
        (folder / "README.md").write_text(f"# A model made of {_named(at)[0]}\n\n{told}", encoding="utf-8")
        return
    scheduler, times = found
    scheduler.save_pretrained(folder / _SCHEDULER)
    name, where = _named(at)
    whole, kind = tuned == "full" or not at.family.lora, str(at.index[at.family.denoiser][1])
    classes = sorted({at.pipeline, str(type(scheduler).__name__)} | ({kind} if whole else set[str]()))
    dtype = f"torch.{at.options.precision}"
    lines = ["import torch", f"from diffusers import {', '.join(classes)}", "", 'folder = "."  # this one']
    networks = at.family.denoisers(at)
    if whole:
        for part in networks:
            lines.append(f'{part} = {kind}.from_pretrained(folder, subfolder="{part}", dtype={dtype})')
        named = ", ".join(f"{part}={part}" for part in networks)
        lines.append(f"pipe = {at.pipeline}.from_pretrained({where}, {named}, dtype={dtype})")
    else:
        lines.append(f"pipe = {at.pipeline}.from_pretrained({where}, dtype={dtype})")
        lines.append("pipe.load_lora_weights(folder" + (")" if len(networks) == 1 else f', weight_name="{LORA[0]}")'))
        for part, file in zip(networks[1:], LORA[1:], strict=False):
            lines.append(f'pipe.load_lora_weights(folder, weight_name="{file}", load_into_{part}=True)')
    lines.append(f'pipe.scheduler = {type(scheduler).__name__}.from_pretrained(folder, subfolder="{_SCHEDULER}")')
    call = at.family.call(at, spec) | times
    if not at.family.takes_times:
        lines += [
            f"times = {call.pop('sigmas')!r}  # which the call has no word for",
            "take = pipe.scheduler.set_timesteps",
            "pipe.scheduler.set_timesteps = lambda n=None, device=None, sigmas=None, mu=None: take(",
            "    sigmas=times, device=device",
            ")",
        ]
    lines += ["call = dict("]
    lines += [f"    {word}={value!r}," for word, value in call.items()]
    lines += [")", 'made = pipe(prompt="a prompt", **call)']
    code = "\n".join(lines)
    text = f"# A few-step model made of {name}\n\nIn this folder:\n\n```python\n{code}\n```\n"
    (folder / "README.md").write_text(text, encoding="utf-8")


def _named(at: Checkpoint) -> tuple[str, str]:
    """The base for people, and the arguments by which diffusers finds it."""
    variant = f', variant="{at.options.variant}"' if at.options.variant else ""
    if at.source.startswith(HUB):
        name, _, revision = at.source.removeprefix(HUB).partition("@")
        return name, f'"{name}", revision="{revision}"{variant}'
    return Path(at.source).name, json.dumps(at.source) + variant
