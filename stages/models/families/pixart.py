"""PixArt-alpha and Sigma: a transformer with a noise schedule, told of text by T5; half of its answer is a variance."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stages.core.spec import SamplerSpec
from stages.models.families.base import Words
from stages.models.families.noise import NoiseSchedule

if TYPE_CHECKING:
    from stages.models.checkpoint import Checkpoint


class PixArtSigma(NoiseSchedule):
    """diffusers loads no adapters for it: students are exported whole."""

    pipeline = "PixArtSigmaPipeline"
    text = ("tokenizer", "text_encoder")
    masked = True
    last = "proj_out"
    text_length = 300
    lora = False
    targets = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")

    def sizes(self, z: Tensor, at: "Checkpoint") -> dict[str, Tensor | None]:
        """What it is told of the image's size."""
        return {"resolution": None, "aspect_ratio": None}

    def ask(self, body: Any, z: Tensor, time: Tensor, words: Words, at: "Checkpoint") -> Tensor:
        """Noise."""
        answer = body(
            z,
            encoder_hidden_states=words["hidden"],
            encoder_attention_mask=words["mask"],
            timestep=time,
            added_cond_kwargs=self.sizes(z, at),
            return_dict=False,
        )[0]
        return answer[:, : z.shape[1]]

    def encode(self, pipe: Any, prompts: Sequence[str], at: "Checkpoint") -> Words:
        """hidden and mask. Captions are taken as they are, whatever is installed here to clean them."""
        hidden, mask, _, _ = pipe.encode_prompt(
            list(prompts),
            do_classifier_free_guidance=False,
            clean_caption=False,
            max_sequence_length=at.text_length,
        )
        return {"hidden": hidden, "mask": mask}

    def lengths(self, pipe: Any, at: "Checkpoint") -> Mapping[str, int]:
        """As stated."""
        assert at.text_length is not None
        return {"tokenizer": at.text_length}

    def call(self, at: "Checkpoint", spec: SamplerSpec) -> dict[str, Any]:
        """In the size that is asked for, and with captions as they are."""
        return super().call(at, spec) | {"use_resolution_binning": False, "clean_caption": False}


class PixArtAlpha(PixArtSigma):
    """At 1024 pixels it is told the size."""

    pipeline = "PixArtAlphaPipeline"
    text_length = 120

    def sizes(self, z: Tensor, at: "Checkpoint") -> dict[str, Tensor | None]:
        """Height and width, and their ratio."""
        height, width = at.options.height, at.options.width
        if at.config(self.denoiser)["sample_size"] != 128:
            return super().sizes(z, at)
        told = {"dtype": z.dtype, "device": z.device}
        return {
            "resolution": torch.tensor([[height, width]], **told).expand(len(z), -1),
            "aspect_ratio": torch.tensor([[height / width]], **told).expand(len(z), -1),
        }
