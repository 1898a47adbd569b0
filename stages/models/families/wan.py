"""Wan 2.1 and 2.2: a flow for videos, told of text by umT5, whose pads become zeros."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from stages.models.families.base import Words
from stages.models.families.video import Video, by_channel

if TYPE_CHECKING:
    from stages.models.checkpoint import Checkpoint


class Wan(Video):
    """No mask: its zeros are read too. The 5B network of 2.2 is told the time of every token (`expand_timesteps`)."""

    pipeline = "WanPipeline"
    text = ("tokenizer", "text_encoder")
    text_length = 512
    takes_times = False
    channels = "z_dim"
    targets = (
        *(f"attn{number}.{name}" for number in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")),
        "ffn.net.0.proj", "ffn.net.2",
    )  # fmt: skip

    def factors(self, vae: Mapping[str, Any]) -> tuple[int, int]:
        """As it states them."""
        return vae.get("scale_factor_temporal", 4), vae.get("scale_factor_spatial", 8)

    def scale(self, at: "Checkpoint") -> tuple[Tensor, Tensor]:
        """A channel each."""
        return by_channel(at.config("vae"))

    def denoisers(self, at: "Checkpoint") -> tuple[str, ...]:
        """Two in the larger ones of 2.2."""
        second = (at.index.get("transformer_2") or [None])[0] is not None and at.index.get("boundary_ratio") is not None
        return ("transformer", "transformer_2") if second else ("transformer",)

    def boundary(self, at: "Checkpoint") -> float:
        """As stated."""
        return at.index["boundary_ratio"]

    def check(self, at: "Checkpoint") -> None:
        """Sides that its patches divide."""
        super().check(at)
        side = self.factors(at.config("vae"))[1] * at.config(self.denoiser)["patch_size"][1]
        for name in ("height", "width"):
            if getattr(at.options, name) % side:
                raise ValueError(f"{name}={getattr(at.options, name)}: a multiple of {side} is needed")

    def ask(self, body: Any, z: Tensor, time: Tensor, words: Words, at: "Checkpoint") -> Tensor:
        """A velocity."""
        if at.index.get("expand_timesteps"):
            frames, height, width = z.shape[2:]
            time = time[:, None].expand(-1, frames * (height // 2) * (width // 2))
        return body(hidden_states=z, timestep=time, encoder_hidden_states=words["hidden"], return_dict=False)[0]

    def middle(self, body: Any) -> nn.Module:
        """Of its blocks."""
        return body.blocks[(len(body.blocks) + 1) // 2 - 1]
