"""Networks without weights: as large as the real ones, on torch's `meta` device, for those who only count."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from stages.models.checkpoint import Checkpoint
from stages.models.experts import Experts, parts
from stages.models.network import seeded_build
from stages.models.pretrained import Pretrained
from stages.models.table import TextTable
from stages.models.transformer import TransformerConfig
from stages.models.unet import UNetConfig

META = torch.device("meta")
_HIDDEN = (
    "joint_attention_dim",
    "caption_channels",
    "cap_feat_dim",
    "text_embed_dim",
    "text_dim",
    "cross_attention_dim",
)
"""What denoisers call the width of a prompt's tokens, the first that one has."""
_WORDS = 8
"""Tokens of a prompt where networks are trained here, about."""


@dataclass(frozen=True)
class Sketch:
    """What is known of a model that is yet to be made."""

    build: Callable[[], nn.Module]
    """Its network on `meta`."""
    shape: tuple[int, ...]
    """Of one sample."""
    row_bytes: int
    """Of a prompt in the text table, at most."""
    encoder_bytes: int = 0
    """Of the encoders that make it, where they are a checkpoint's."""

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Of its weights, by name."""
        return {name: tuple(weight.shape) for name, weight in self.build().named_parameters()}

    def call(self, net: nn.Module, rows: int) -> Tensor:
        """The answer of what learns of `net`, one that was built here or a twin of it, for `rows` samples."""
        x, t = torch.empty((rows, *self.shape), device=META), torch.empty(rows, device=META)
        cond = torch.zeros((rows, 1), dtype=torch.int64, device=META)
        if not isinstance(net, Pretrained):
            return net(x, t, cond) if net.companion is None else net.beside(x, t, cond, x)  # type: ignore[operator]
        # What is around the denoiser looks at times, of which there are none here, and holds next to nothing.
        body = next(iter(parts(net.body, "").values()))
        assert isinstance(net.text, TextTable)
        words = {name: row.expand(rows, *row.shape[1:]) for name, row in net.text.features.items()}
        return net.at.family.ask(body, x.to(net.at.dtype), t, words, net.at)


def trained(cfg: TransformerConfig | UNetConfig, sample_shape: tuple[int, ...]) -> Sketch:
    """Of a network that is trained here."""
    width, _ = cfg.text_size

    def build() -> nn.Module:
        table = TextTable([""], {"hidden": torch.zeros(1, _WORDS, width), "pooled": torch.zeros(1, width)})
        net = seeded_build(0, cfg, sample_shape, table)
        net.text = _on_meta(table)
        return net.to(META)

    return Sketch(build, sample_shape, 4 * width * (_WORDS + 1))


def divided(one: Sketch, num_students: int) -> Sketch:
    """Of as many networks that share the prompts, each as large as the one."""

    def build() -> nn.Module:
        net = one.build()
        net.divide(num_students)  # type: ignore[operator]
        return net

    return replace(one, build=build)


def checkpoint(at: Checkpoint) -> Sketch:
    """Of a checkpoint's denoiser, from its configuration alone."""
    settings = at.config(at.family.denoiser)
    width = next(settings[name] for name in _HIDDEN if settings.get(name))
    length = at.family.most_tokens(at)
    features = {"hidden": torch.empty(1, length, width, dtype=at.dtype)}
    pooled = settings.get("pooled_projection_dim") or _pooled_beside_sizes(settings)
    if pooled:
        features["pooled"] = torch.empty(1, pooled, dtype=at.dtype)
    if at.family.masked:
        features["mask"] = torch.ones(1, length, dtype=torch.int64)

    def build() -> nn.Module:
        import diffusers

        made: dict[str, nn.Module] = {}
        for name in at.family.denoisers(at):
            with META:
                made[name] = getattr(diffusers, at.index[name][1]).from_config(dict(at.config(name))).to(at.dtype)
        body = Experts(made, at.family.boundary(at)) if len(made) > 1 else made[at.family.denoiser]
        return Pretrained(body, _on_meta(TextTable([""], features), ragged=at.family.ragged), at)

    row_bytes = sum(rows.nbytes for rows in features.values())
    return Sketch(build, at.latent_shape, row_bytes, at.encoder_bytes)


def _pooled_beside_sizes(settings: Any) -> int | None:
    """SDXL's pooled vector rides in one embedding with six numbers."""
    whole, each = settings.get("projection_class_embeddings_input_dim"), settings.get("addition_time_embed_dim")
    return whole - 6 * each if whole and each else None


def _on_meta(table: TextTable, *, ragged: bool = False) -> TextTable:
    # A mask has values, by which lists of texts are cut; a denoiser that is given it as it is takes no other device.
    table.features = {
        name: rows if name == "mask" and ragged else rows.to(META) for name, rows in table.features.items()
    }
    return table
