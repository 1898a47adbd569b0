"""Models on disk: a diffusers pipeline folder (config.json, safetensors), or a mixture's parameters; never a pickle.

Reading one never runs code from the folder: pipeline.py is there for people who have diffusers and not fewstep.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from stages.core import tensors
from stages.core.config import check
from stages.core.spec import SamplerSpec
from stages.models.mixture import GaussianMixture

INDEX = "model_index.json"
MIXTURE = "mixture.safetensors"
SAMPLER = "sampler.json"
EXPORTED_RULES = ("euler", "renoise")


@dataclass(frozen=True)
class Student:
    """A network with the sampler it carries. A teacher is one too."""

    net: Any
    """A VelocityTransformer, or a GaussianMixture for a teacher in closed form."""
    spec: SamplerSpec


def save(folder: Path, net: torch.nn.Module, spec: SamplerSpec) -> None:
    """Write `net` and `spec` to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(net, GaussianMixture):
        tensors.save(folder / MIXTURE, net.state_dict())
        (folder / SAMPLER).write_text(json.dumps(asdict(spec), indent=1) + "\n", encoding="utf-8")
        return
    if spec.rule not in EXPORTED_RULES:
        raise ValueError(f"a saved model steps by one of {EXPORTED_RULES}, not {spec.rule!r}")
    import diffusers
    from transformers.utils import logging

    from stages.models import pipeline
    from stages.models.transformer import VelocityTransformer

    assert isinstance(net, VelocityTransformer)
    logging.disable_progress_bar()  # "Writing model shards" is no news at this size, and it is not ours to draw
    parts = {"transformer": net.transformer, "text_encoder": net.text_encoder, "tokenizer": net.vocabulary.tokenizer}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    _forget_origin(folder / "transformer" / "config.json")
    index = {
        "_class_name": ["pipeline", "FewStepPipeline"],
        "_diffusers_version": diffusers.__version__,
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "sampler": asdict(spec),
    }
    (folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    shutil.copyfile(pipeline.__file__, folder / "pipeline.py")


def load(folder: Path, device: str | torch.device = "cpu") -> Student:
    """Read what `save` wrote, in evaluation mode, without gradients. ValueError if no model is there."""
    if (folder / MIXTURE).is_file():
        mixture = GaussianMixture(**load_file(folder / MIXTURE))
        return Student(_frozen(mixture, device), sampler(folder))
    spec = sampler(folder)
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
    from transformers import CLIPTextModel, PreTrainedTokenizerFast
    from transformers.utils import logging

    from stages.models.transformer import VelocityTransformer

    logging.disable_progress_bar()
    net = VelocityTransformer(
        SD3Transformer2DModel.from_pretrained(folder / "transformer", local_files_only=True),
        CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True),
        PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer", local_files_only=True),
    )
    return Student(_frozen(net, device), spec)


def sampler(folder: Path) -> SamplerSpec:
    """The sampler that the model in `folder` carries. ValueError if no model is there."""
    if (folder / MIXTURE).is_file():
        return _spec(_read(folder / SAMPLER), folder)
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder}: no model here ({INDEX} is missing); expected a folder such as data/teacher/model")
    return _spec(_read(folder / INDEX)["sampler"], folder)


def _forget_origin(file: Path) -> None:
    """Where a network was once loaded from is a path of one machine, and would make equal artefacts differ."""
    settings = {name: value for name, value in _read(file).items() if name != "_name_or_path"}
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _frozen(net: torch.nn.Module, device: str | torch.device) -> torch.nn.Module:
    return net.eval().requires_grad_(False).to(device)


def _spec(content: Mapping[str, Any], folder: Path) -> SamplerSpec:
    return check(SamplerSpec, content, f"{folder}: sampler")


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))
