"""Models on disk: a diffusers pipeline folder (config.json, safetensors), or a mixture's parameters; never a pickle.

Reading one never runs code from the folder: pipeline.py is there for people who have diffusers and not fewstep.
"""

import inspect
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from stages.core import tensors
from stages.core.config import check
from stages.core.spec import SamplerSpec
from stages.models import export
from stages.models.conditioning import FrozenText, OneHot, TextEncoder
from stages.models.families.base import STOCHASTIC
from stages.models.latents import Latents
from stages.models.mixture import GaussianMixture
from stages.models.pretrained import BATCH, PipelineText, Pretrained
from stages.models.space import SPACES, Points
from stages.models.table import Text, TextTable, joined

INDEX = "model_index.json"
MIXTURE = "mixture.safetensors"
SAMPLER = "sampler.json"
SCHEDULER = "scheduler"
SECOND_TIME = "second_time"
POLICY = "policy"
LATENT_VARIABLE = "latent_variable"
NEGATIVE_READER = "negative_reader"
COMPANION = "companion"


@dataclass(frozen=True)
class Student:
    """A network with the sampler it carries, where its samples live, and what reads prompts. A teacher is one too."""

    net: Any
    """One of `stages.models.network`, a `Pretrained`, or a GaussianMixture for a teacher in closed form."""
    spec: SamplerSpec
    space: Points
    encoder: TextEncoder


def save(folder: Path, model: Student, steps: Sequence[Any] | None = None) -> None:
    """Write `model` to `folder`.

    `steps` are what `stages.samplers.program` makes of its sampler, for the folder's own pipeline; Euler's need none. A
    model of tokens has no pipeline of its own: nobody samples it without us.
    """
    folder.mkdir(parents=True, exist_ok=True)
    net, spec = model.net, model.spec
    if isinstance(net, GaussianMixture):
        tensors.save(folder / MIXTURE, net.state_dict())
        (folder / SAMPLER).write_text(json.dumps(asdict(spec), indent=1) + "\n", encoding="utf-8")
        return
    if isinstance(net, Pretrained):
        export.save(folder, net, spec)
        return
    of_tokens = model.space.noising is not None
    if steps is None and not of_tokens and (spec.rule["name"] != "euler" or spec.field):
        raise ValueError(f"a model that steps by {spec.called} is saved with its steps")
    import diffusers
    from transformers.utils import logging

    from stages.models import pipeline

    logging.disable_progress_bar()  # "Writing model shards" is no news at this size, and it is not ours to draw
    more = {name: getattr(net, name) for name in (SECOND_TIME, POLICY, LATENT_VARIABLE, NEGATIVE_READER)}
    company = net.companion and net.companion.body
    for name, part in {net.component: net.body, COMPANION: company, **more}.items():
        if part is not None:
            _save_part(folder / name, part)
    index = {
        "_class_name": [None, None] if of_tokens else ["pipeline", "FewStepPipeline"],
        "_diffusers_version": diffusers.__version__,
        **{name: [None, None] for name in ("transformer", "unet")},
        net.component: _named(net.body) if _is_ours(net.body) else ["diffusers", type(net.body).__name__],
        **{name: _named(part) for name, part in more.items()},
        COMPANION: [None, None] if company is None else ["diffusers", type(company).__name__],
        "fold": getattr(net, "fold", 1),
        "companion_fold": getattr(net.companion, "fold", 1),
        **_save_encoder(folder, model.encoder),
        "sampler": asdict(spec),
        "space": next(name for name, kind in SPACES.items() if type(model.space) is kind),
    }
    if steps is not None:
        index["steps"] = steps
    if spec.rule["name"] in STOCHASTIC and not spec.field:
        _scheduler(spec).save_pretrained(folder / SCHEDULER)
    (folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if not of_tokens:
        shutil.copyfile(pipeline.__file__, folder / "pipeline.py")


def _save_encoder(folder: Path, encoder: TextEncoder) -> dict[str, Any]:
    """Write what reads prompts; returns its entries of the index."""
    if isinstance(encoder, OneHot):
        return {"text_encoder": [None, None], "tokenizer": [None, None], "prompts": encoder.prompts}
    assert isinstance(encoder, FrozenText)
    encoder.vocabulary.tokenizer.save_pretrained(folder / "tokenizer")
    ours = _is_ours(encoder.encoder)
    if ours:
        _save_part(folder / "text_encoder", encoder.encoder)
    else:
        encoder.encoder.save_pretrained(folder / "text_encoder")
    return {
        "text_encoder": _named(encoder.encoder) if ours else ["transformers", type(encoder.encoder).__name__],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "prompts": None,
    }


def _is_ours(part: Any) -> bool:
    return type(part).__module__.startswith("stages.")


def _save_part(folder: Path, part: Any) -> None:
    """Write a network, or what works with one; of a class of ours with the code, which diffusers looks for there."""
    part.save_pretrained(folder)
    _forget_origin(folder / "config.json")
    if _is_ours(part):
        shutil.copy(inspect.getfile(type(part)), folder)


def _named(part: Any) -> list[str | None]:
    """Where diffusers finds the class of such a network, or of none."""
    return [None, None] if part is None else [type(part).__module__.rpartition(".")[2], type(part).__name__]


def load(
    folder: Path,
    text: Text | Sequence[str],
    device: str | torch.device = "cpu",
    *,
    negative: str | None = None,
) -> Student:
    """Read what `save` wrote, in evaluation mode, without gradients. ValueError if no model is there.

    The network reads the table `text`, or one that its own encoder makes of the prompts `text`: then row 0 is the empty
    prompt, row i + 1 is text[i], and the last one a prompt to lead away from, where that is stated.
    """
    spec, encoder = sampler(folder), encoder_of(folder)
    if not isinstance(text, Text):
        text = _table(encoder, ["", *text], negative)
    if (folder / export.INDEX).is_file():
        net = export.load(folder, text)
        return Student(_frozen(net, device), spec, space_of(folder), encoder)
    if (folder / MIXTURE).is_file():
        mixture = GaussianMixture(**load_file(folder / MIXTURE))
        mixture.text = text
        return Student(_frozen(mixture, device), spec, space_of(folder), encoder)
    return Student(_frozen(_network(folder, text), device), spec, space_of(folder), encoder)


def _table(encoder: TextEncoder, prompts: list[str], negative: str | None) -> TextTable:
    """Some pipelines read a negative prompt otherwise than one that is asked for."""
    rows = [encoder.encode(prompts)]
    if negative is None:
        return TextTable(prompts, *rows)
    apart = isinstance(encoder, PipelineText)
    rows.append(encoder.away_from(negative) if apart else encoder.encode([negative]))
    return TextTable([*prompts, negative], joined(rows))


def _network(folder: Path, text: Text) -> Any:
    from stages.models.latent_variable import LatentVariable
    from stages.models.negative_reader import NegativeReader
    from stages.models.policy import KINDS
    from stages.models.second_time import SecondTime

    index = _index(folder)
    net = _of_one_time(folder / _component(index), text, index["fold"])
    net.tokens = SPACES[index["space"]].noising
    kinds = {kind.__name__: kind for kind in (SecondTime, LatentVariable, NegativeReader, *KINDS.values())}
    for name in (SECOND_TIME, POLICY, LATENT_VARIABLE, NEGATIVE_READER):
        if (folder / name).is_dir():
            setattr(net, name, kinds[index[name][1]].from_pretrained(folder / name, local_files_only=True))
    if (folder / COMPANION).is_dir():
        net.companion = _of_one_time(folder / COMPANION, text, index["companion_fold"])
    return net


def _of_one_time(folder: Path, text: Text, fold: int) -> Any:
    """Of a body's folder, be it several networks, or one that is asked for several times."""
    from stages.models.transformer import VelocityTransformer
    from stages.models.unet import VelocityUNet

    settings = _read(folder / "config.json")
    if settings.get("kind", settings["_class_name"]) == "UNet2DConditionModel":
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        return VelocityUNet(_body(folder, UNet2DConditionModel), text, fold)
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    return VelocityTransformer(_body(folder, SD3Transformer2DModel), text)


def _body(folder: Path, kind: Any) -> Any:
    """Of diffusers' class `kind`, or of one of ours that is made of it."""
    if "each" in (settings := _read(folder / "config.json")):
        from stages.models.several import Several
        from stages.models.temporal import Temporal

        kind = {made.__name__: made for made in (Several, Temporal)}[settings["_class_name"]]
    return kind.from_pretrained(folder, local_files_only=True)


def space_of(folder: Path) -> Points:
    """Where the samples of the model in `folder` live. ValueError if no model is there."""
    if (folder / export.INDEX).is_file():
        return Latents.of(export.opened(folder))
    if (folder / MIXTURE).is_file():
        return Points((load_file(folder / MIXTURE)["means"].shape[1], 1, 1))
    index = _index(folder)
    config, fold = _read(folder / _component(index) / "config.json"), index["fold"]
    settings = config.get("each", config)
    size = settings["sample_size"]
    height, width = (side * fold for side in ((size, size) if isinstance(size, int) else size))
    return SPACES[index["space"]]((settings["in_channels"] // fold**2, height, width))


def encoder_of(folder: Path, device: str | torch.device = "cpu", batch_size: int = BATCH) -> TextEncoder:
    """What reads prompts for the model in `folder`, a checkpoint's so many at once. ValueError if no model is there."""
    if (folder / export.INDEX).is_file():
        return PipelineText(export.opened(folder), device, batch_size)
    if (folder / MIXTURE).is_file():
        return GaussianMixture(**load_file(folder / MIXTURE)).encoder
    prompts = _index(folder)["prompts"]
    if prompts is not None:
        return OneHot(prompts)
    from transformers import CLIPTextModel, PreTrainedTokenizerFast
    from transformers.utils import logging

    from stages.models.reader import ConvolutionalTextEncoder

    logging.disable_progress_bar()
    kinds = {kind.__name__: kind for kind in (CLIPTextModel, ConvolutionalTextEncoder)}
    kind = kinds[_index(folder)["text_encoder"][1]]
    encoder = kind.from_pretrained(folder / "text_encoder", local_files_only=True)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer", local_files_only=True)
    return FrozenText(_frozen(encoder, device), tokenizer)


def sampler(folder: Path) -> SamplerSpec:
    """The sampler that the model in `folder` carries. ValueError if no model is there."""
    if (folder / export.INDEX).is_file():
        return export.sampler(folder)
    content = _read(folder / SAMPLER) if (folder / MIXTURE).is_file() else _index(folder)["sampler"]
    return check(SamplerSpec, content, f"{folder}: sampler")


def _component(index: dict[str, Any]) -> str:
    """The folder of the network's body."""
    return next(name for name in ("transformer", "unet") if index[name] != [None, None])


def _index(folder: Path) -> dict[str, Any]:
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder}: no model here ({INDEX} is missing); expected a folder such as data/teacher/model")
    return _read(folder / INDEX)


def _scheduler(spec: SamplerSpec) -> Any:
    """diffusers' own scheduler for the same steps, for `sigmas` from 1 to 1 / n in even steps.

    Where the schedule is neither even nor even but for a shift, they are the times that the model carries, without 0.
    """
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    shift = spec.schedule["shift"] if spec.schedule["name"] == "shifted" else 1.0
    return FlowMatchEulerDiscreteScheduler(shift=shift, stochastic_sampling=STOCHASTIC[spec.rule["name"]])


def _forget_origin(file: Path) -> None:
    """Where a network was once loaded from is a path of one machine, and would make equal artefacts differ."""
    settings = {name: value for name, value in _read(file).items() if name != "_name_or_path"}
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _frozen(net: Any, device: str | torch.device) -> Any:
    return net.eval().requires_grad_(False).to(device)


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))
