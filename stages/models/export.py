"""A model made of a checkpoint, as a folder: what it adds to its base, what that was, and how diffusers takes it.

fewstep.json                       the base, its files' digests, how it is read, the sampler
pytorch_lora_weights.safetensors   adapters, where the model was tuned by them: `load_lora_weights` takes the folder
pytorch_lora_weights_2.safetensors those of the second network, where there are two
<denoiser>/                        whole weights, where it was tuned whole, or diffusers has no loader for adapters
scheduler/                         the sampler's steps, for the stock pipeline
README.md                          the call
base/                              the base itself, where it is copied
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from safetensors import safe_open
from safetensors.torch import load_file

from stages.core import tensors
from stages.core.config import check
from stages.core.spec import SamplerSpec
from stages.models import adapters, stock
from stages.models.checkpoint import HUB, Checkpoint, Options, found_at
from stages.models.experts import parts
from stages.models.pretrained import Pretrained, build
from stages.models.table import Text

INDEX = "fewstep.json"
BASE = "base"
"""Folder of a copied base; also its source, in the index."""


def found(source: str, options: Options) -> Checkpoint:
    """The checkpoint at `source`, a path or hub:<id>@<revision>; ValueError where it cannot be had."""
    folder = found_at(source, options.variant)
    return Checkpoint(folder, options, source if source.startswith(HUB) else str(folder))


def own_sampler(at: Checkpoint, num_steps: int, guidance: float) -> SamplerSpec:
    """Euler steps, spread as the checkpoint's scheduler says."""
    times = at.family.levels(at, num_steps)
    schedule = {"name": "explicit", "at": list(times)}
    return SamplerSpec(rule={"name": "euler"}, schedule=schedule, times=times, guidance=guidance)


def imported(folder: Path, at: Checkpoint, spec: SamplerSpec, *, copied: bool) -> None:
    """Write the model that a checkpoint is by itself to `folder`; ValueError for all that is wrong with it."""
    at.check()
    at = replace(at, files=at.inventory(), source=BASE if copied else at.source)
    for entry in at.files if copied else ():
        (folder / BASE / entry["path"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(at.folder / entry["path"], folder / BASE / entry["path"])
    _write(folder, at, spec, tuned=None)


def encoders(model: Path, folder: Path) -> None:
    """Write to `folder` what `opened` needs to have prompts read as for the model in `model`, and nothing to sample."""
    at = opened(model)
    files = [each for each in at.files if each["path"].startswith(at.family.text) or each["path"].endswith(".json")]
    for entry in files if at.source == BASE else ():
        _link(at.folder / entry["path"], folder / BASE / entry["path"])
    folder.mkdir(parents=True, exist_ok=True)
    _json(folder / INDEX, _facts(replace(at, files=files)))


def save(folder: Path, net: Pretrained, spec: SamplerSpec) -> None:
    """Write a model that was made of a checkpoint."""
    at, rank = net.at, adapters.rank_of(net.body)
    spec = at.family.fitted(at, spec)
    folder.mkdir(parents=True, exist_ok=True)
    if rank is None or not at.family.lora:
        whole = net.body if rank is None else adapters.merged(net.body)
        for name, part in parts(whole, at.family.denoiser).items():
            part.save_pretrained(folder / name)  # type: ignore[operator]
            _forget_origin(folder / name / "config.json")
    if rank is not None:
        _save_adapters(folder, net)
    for entry in at.files if at.source == BASE else ():
        _link(at.folder / entry["path"], folder / BASE / entry["path"])
    _write(folder, at, spec, tuned="full" if rank is None else "lora")


def load(folder: Path, text: Text) -> Pretrained:
    """Read what `imported` or `save` wrote. ValueError where the base is not to be had, or is another one."""
    at = opened(folder)
    at.verify()
    tuned = _read(folder)["tuned"]
    net = build(at, text, folder if tuned == "full" else None)
    if tuned == "lora":
        _load_adapters(folder, net)
    return net


def opened(folder: Path) -> Checkpoint:
    """The base of the model in `folder`, none of its weights read."""
    told = _read(folder)
    source, options = told["source"], check(Options, told["options"], f"{folder / INDEX}: options")
    root = folder / BASE if source == BASE else found_at(source, options.variant)
    return Checkpoint(root, options, source, tuple(told["files"]))


def sampler(folder: Path) -> SamplerSpec:
    """The sampler that the model in `folder` carries."""
    return check(SamplerSpec, _read(folder)["sampler"], f"{folder / INDEX}: sampler")


def _write(folder: Path, at: Checkpoint, spec: SamplerSpec, *, tuned: Literal["full", "lora"] | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _json(folder / INDEX, {**_facts(at), "sampler": asdict(spec), "tuned": tuned})
    if tuned:
        stock.write(folder, at, spec, tuned=tuned)


def _facts(at: Checkpoint) -> dict[str, Any]:
    options = asdict(at.options)
    return {"pipeline": at.pipeline, "source": at.source, "files": list(at.files), "options": options}


def _save_adapters(folder: Path, net: Pretrained) -> None:
    """As diffusers' `save_lora_weights` does: a prefix before every name, and peft's words in the header.

    The prefix of a second network is that of the first: it is its file's name that says which one it is.
    """
    prefix = f"{net.at.family.denoiser}."
    for file, part in zip(stock.LORA, parts(net.body, "").values(), strict=False):
        state, told = adapters.exported(part)
        facts = {f"{prefix}{name}": value for name, value in told.items()}
        words = {"format": "pt", "lora_adapter_metadata": json.dumps(facts, indent=1, sort_keys=True)}
        tensors.save(folder / file, {f"{prefix}{name}": tensor for name, tensor in state.items()}, words)


def _load_adapters(folder: Path, net: Pretrained) -> None:
    from peft import set_peft_model_state_dict

    prefix = f"{net.at.family.denoiser}."
    for name, part in zip(stock.LORA, parts(net.body, "").values(), strict=False):
        file = folder / name
        with safe_open(file, framework="pt") as opened_file:
            told = json.loads(opened_file.metadata()["lora_adapter_metadata"])
        rank, targets = told[f"{prefix}r"], told[f"{prefix}target_modules"]
        adapters.inject(part, rank=rank, alpha=rank, targets=targets, seed=0)
        state = {key.removeprefix(prefix): tensor for key, tensor in load_file(file).items()}
        found = set_peft_model_state_dict(part, state, adapter_name=adapters.NAME)
        if found.unexpected_keys:
            raise ValueError(f"{file}: {found.unexpected_keys[0]} is no layer of the network")


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def _forget_origin(file: Path) -> None:
    """Where a network was once loaded from is a path of one machine, and would make equal artefacts differ."""
    settings = {name: value for name, value in json.loads(file.read_text()).items() if name != "_name_or_path"}
    _json(file, settings)


def _json(file: Path, content: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / INDEX).read_text(encoding="utf-8"))
