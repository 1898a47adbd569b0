"""A diffusers checkpoint on disk: what its folder states, which of its files are read, and that they are the same ones.

Nothing in it is unpickled and no code of it is run: components are classes of diffusers and transformers, weights are
safetensors.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from safetensors import safe_open

from stages.core.cache import remembered
from stages.core.config import config
from stages.core.hub import HUB, snapshot
from stages.core.messages import listed
from stages.core.ranges import Count, Guidance, Size
from stages.models.families import FAMILIES
from stages.models.families.base import Family
from stages.models.families.noise import NoiseSchedule
from stages.models.vp import Above, Schedule

INDEX = "model_index.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_LIBRARIES = ("diffusers", "transformers")
_STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
_WORDS = (".json", ".txt", ".model", ".jinja")
"""Endings of files that are neither weights nor code."""
_PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth")


@config
class Options:
    """How a checkpoint is read. All of it travels with what is made of the checkpoint."""

    variant: str | None
    """Of its weights, as in `diffusion_pytorch_model.fp16.safetensors`; null is the plain one."""
    precision: Literal["float32", "bfloat16"]
    """What its denoiser and its text encoders are held and compute in; the VAE is float32."""
    height: Size
    """Of images, in pixels."""
    width: Size
    frames: Annotated[int, Field(ge=1, le=10**4)] | None
    """Of videos; null for images."""
    above_t_max: Above
    """What is done where a noise schedule ends before pure noise, see `stages/models/vp.py`; nothing is for flows."""
    embedded_guidance: Guidance | None
    """What a denoiser that takes its guidance as an input is given, for teacher and students; null for others."""
    text_length: Count | None
    """Tokens that prompts are padded to; null is what the stock pipeline takes."""
    negative_prompt: str | None
    """What row 0 of the text table, which guidance leads away from, stands for; null is the stock pipeline's own."""
    slice_size: Count
    """Images that the VAE sees at once."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder that `DiffusionPipeline.save_pretrained` wrote, or one like it, and how it is read."""

    folder: Path
    options: Options
    source: str = ""
    """What the folder was found by: an absolute path, hub:<id>@<revision>, or a name inside of an artefact."""
    files: Sequence[Mapping[str, Any]] = ()
    """What was read when it was imported: path, bytes and sha256 each."""

    @cached_property
    def index(self) -> Mapping[str, Any]:
        """model_index.json; ValueError if there is none."""
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder}: no such folder; name the folder of a diffusers pipeline")
        if not (self.folder / INDEX).is_file():
            raise ValueError(f"{self.folder}: not the folder of a diffusers pipeline ({INDEX} is missing)")
        return _read(self.folder / INDEX)

    @property
    def pipeline(self) -> str:
        """The class of diffusers that samples it."""
        return str(self.index.get("_class_name"))

    @property
    def family(self) -> Family:
        """ValueError lists the families that are known."""
        found = FAMILIES.get(self.pipeline)
        if found is None:
            raise ValueError(
                f"{self.folder}: a {self.pipeline}, none of the families known here: {listed(sorted(FAMILIES))}"
            )
        return found

    @property
    def dtype(self) -> torch.dtype:
        """What the denoiser computes in."""
        return DTYPES[self.options.precision]

    @property
    def text_length(self) -> int | None:
        """Tokens that prompts are padded to."""
        return self.options.text_length or self.family.text_length

    def config(self, component: str) -> Mapping[str, Any]:
        """A component's own words: config.json, or scheduler_config.json."""
        return self._configs[component]

    @cached_property
    def _configs(self) -> Mapping[str, Mapping[str, Any]]:
        names = {"scheduler": "scheduler_config.json"}
        parts = [*self.family.denoisers(self), "vae", "scheduler"]
        return {part: _read(self.folder / part / names.get(part, "config.json")) for part in parts}

    def tokenizer_length(self, component: str) -> int:
        """Tokens that a tokeniser gives at most."""
        return _read(self.folder / component / "tokenizer_config.json")["model_max_length"]

    @cached_property
    def schedule(self) -> Schedule:
        """The noise schedule of a VP model."""
        return Schedule.of(self.config("scheduler"), self.options.above_t_max)

    @property
    def is_scaled(self) -> bool:
        """Whether no network is asked at pure noise, which is scaled: stock parity of a noise schedule."""
        has_schedule = isinstance(self.family, NoiseSchedule)
        return has_schedule and self.options.above_t_max == "stock" and self.schedule.t_max < 1

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return self.family.shape(self)

    def check(self) -> None:
        """ValueError for all that is wrong with it, as far as no weights need be read."""
        family, options = self.family, self.options
        parts = (*family.text, *family.denoisers(self), "vae", "scheduler")
        for part in parts:
            library, kind = self.index.get(part) or (None, None)
            if library is None:
                raise ValueError(f"{self.folder}: {INDEX} names no {part}, which {self.pipeline} needs")
            if library not in _LIBRARIES:
                raise ValueError(
                    f"{self.folder}: {part} is a {library}.{kind}; code that a checkpoint brings is not run"
                )
        for _ in self._files(parts):
            pass
        assert self._configs
        for name in ("height", "width"):
            if getattr(options, name) % family.multiple:
                raise ValueError(
                    f"{name}={getattr(options, name)}: not a multiple of {family.multiple}, as {self.pipeline} needs"
                )
        if family.embeds_guidance(self) != (options.embedded_guidance is not None):
            takes = (
                "takes its guidance as an input; state a number"
                if options.embedded_guidance is None
                else "takes none; set it to null"
            )
            raise ValueError(f"embedded_guidance: the denoiser {takes}")
        if options.text_length is not None and family.text_length is None:
            raise ValueError(
                f"text_length={options.text_length}: the tokenisers of {self.pipeline} know one length; set it to null"
            )
        family.check(self)

    def inventory(self) -> tuple[dict[str, Any], ...]:
        """Path, bytes and sha256 of every file that is read."""
        family = self.family
        names = self._files((*family.text, *family.denoisers(self), "vae", "scheduler"))
        return tuple(
            {"path": name, "bytes": (self.folder / name).stat().st_size, "sha256": remembered(self.folder / name)}
            for name in sorted({INDEX, *names})
        )

    def verify(self) -> None:
        """ValueError names a file that is not as it was when the checkpoint was imported."""
        for entry in self.files:
            file = self.folder / entry["path"]
            if not file.is_file() or file.stat().st_size != entry["bytes"] or remembered(file) != entry["sha256"]:
                fault = "is missing" if not file.is_file() else "has another content"
                raise ValueError(
                    f"{self.folder}: another checkpoint than the one this model was made from: {entry['path']} {fault}"
                )

    @property
    def encoder_bytes(self) -> int:
        """Of the text encoders in memory, counted without reading them."""
        found = 0
        for part in (name for name in self.family.text if name.startswith("text_encoder")):
            for file in (name for name in self._weights(part)[1] if name.endswith(".safetensors")):
                with safe_open(self.folder / part / file, framework="pt") as opened:
                    found += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())
        return found * self.dtype.itemsize

    def _files(self, parts: Sequence[str]) -> Iterator[str]:
        """Names of the files of components that are read."""
        for part in parts:
            folder = self.folder / part
            if not folder.is_dir():
                raise ValueError(f"{self.folder}: the folder {part} is missing")
            words = [file for file in folder.iterdir() if file.suffix in _WORDS and ".index." not in file.name]
            yield from (f"{part}/{file.name}" for file in words)
            if part == "scheduler" or part.startswith("tokenizer") or part == "processor":
                continue
            yield from (f"{part}/{name}" for name in self._weights(part)[1])

    def variant_of(self, part: str) -> str | None:
        """The variant of a component's weights; ValueError where they are not there, or are pickles."""
        return self._weights(part)[0]

    def _weights(self, part: str) -> tuple[str | None, list[str]]:
        """The variant, and names of files: the denoiser has the variant that is stated, others may have none."""
        folder, stem, stated = self.folder / part, _STEMS[self.index[part][0]], self.options.variant
        for variant in dict.fromkeys([stated] if part in self.family.denoisers(self) else [stated, None]):
            middle = f".{variant}" if variant else ""
            index, whole = folder / f"{stem}.safetensors.index{middle}.json", folder / f"{stem}{middle}.safetensors"
            if index.is_file():
                return variant, [index.name, *sorted(set(_read(index)["weight_map"].values()))]
            if whole.is_file():
                return variant, [whole.name]
        found = [file.name for pattern in _PICKLES for file in folder.glob(pattern)]
        if found:
            raise ValueError(f"{folder / found[0]}: a pickle, which may run code; convert the weights to safetensors")
        raise ValueError(f"{folder}: no weights here ({stem}{f'.{stated}' if stated else ''}.safetensors is missing)")


def found_at(source: str, variant: str | None) -> Path:
    """The folder of `source`, a path or hub:<id>@<revision>, with its `variant`; ValueError if it is not there."""
    if not source.startswith(HUB):
        return Path(source).resolve()
    wanted = [INDEX, *(f"*/*{ending}" for ending in (*_WORDS, ".safetensors"))]
    others = [] if variant else ["*.fp16.safetensors", "*.fp16-*.safetensors", "*.bf16.safetensors", "*.non_ema.*"]
    return snapshot(source, wanted, others).resolve()


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{file}: missing") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}: not readable ({error})") from None
