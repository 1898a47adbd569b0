"""CogVideoX: a noise schedule down to pure noise, for videos; its network takes the frames before the channels."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stages.core.spec import SamplerSpec
from stages.models.families.base import Words
from stages.models.families.noise import NoiseSchedule
from stages.models.families.video import Video

if TYPE_CHECKING:
    from stages.models.checkpoint import Checkpoint


class CogVideoX(NoiseSchedule, Video):
    """T5's pads are read too. v is predicted, since nothing can be told from noise about noise."""

    pipeline = "CogVideoXPipeline"
    text = ("tokenizer", "text_encoder")
    text_length = 226
    multiple = 16
    whole_levels = True
    targets = ("to_q", "to_k", "to_v", "to_out.0")

    def check(self, at: "Checkpoint") -> None:
        """A text as long as the network's, and frames that come out even inside it too."""
        super().check(at)
        settings, patch = at.config(self.denoiser), at.config(self.denoiser).get("patch_size_t") or 1
        if at.text_length != settings["max_text_seq_length"]:
            raise ValueError(
                f"text_length={at.text_length}: the network reads {settings['max_text_seq_length']} tokens; state that"
            )
        if at.latent_shape[1] % patch:
            raise ValueError(
                f"frames={at.options.frames}: {at.latent_shape[1]} in latent space, where the network takes {patch} at "
                "once; choose a number of frames that it divides"
            )

    def ask(self, body: Any, z: Tensor, time: Tensor, words: Words, at: "Checkpoint") -> Tensor:
        """v, of the noise schedule."""
        from diffusers.pipelines.cogvideo.pipeline_cogvideox import CogVideoXPipeline

        places = None
        if body.config.use_rotary_positional_embeddings:
            _, side = self.factors(at.config("vae"))
            pipe: Any = SimpleNamespace(transformer=body, vae_scale_factor_spatial=side)
            size = (at.options.height, at.options.width, z.shape[2])
            places = CogVideoXPipeline._prepare_rotary_positional_embeddings(pipe, *size, z.device)
        answer = body(
            hidden_states=z.transpose(1, 2),
            encoder_hidden_states=words["hidden"],
            timestep=time,
            image_rotary_emb=places,
            return_dict=False,
        )[0]
        return answer.transpose(1, 2)

    def tokens(self, answer: Any, at: "Checkpoint") -> Tensor:
        """The video's, which come first."""
        return answer[0]

    def scheduler(self, at: "Checkpoint", spec: SamplerSpec) -> tuple[Any, dict[str, Any]] | None:
        """LCM's, or DPM-Solver++'s of first order, which is DDIM: its own take no times.

        They know no `snr_shift_scale`, but a list of betas. Pure noise is a share of 1e-6 of the data in it.
        """
        from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
        from diffusers.schedulers.scheduling_lcm import LCMScheduler

        schedule, rule = at.schedule, spec.rule["name"]
        if rule not in ("euler", "renoise") or (rule == "euler" and spec.num_steps > 1 and schedule.t_max < 1):
            return None
        alphas = torch.sigmoid(2 * schedule.ratios)
        betas = (1 - alphas / torch.cat([torch.ones(1), alphas[:-1]])).clamp_max(1 - 2**-24)
        words = {"trained_betas": betas.tolist(), "prediction_type": schedule.prediction}
        levels = schedule.level(torch.tensor(spec.times[:-1], dtype=torch.float64)).round().long().tolist()
        if rule == "renoise" or spec.num_steps == 1:
            return LCMScheduler(**words), {"timesteps": levels}
        return DPMSolverMultistepScheduler(**words, solver_order=1), {"timesteps": levels}
