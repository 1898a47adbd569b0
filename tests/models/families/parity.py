"""What has to be said to a family's stock pipeline so that it can be held against ours."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from stages.models.families.flux import packed, unpacked
from stages.models.families.flux2 import statistics
from stages.models.pretrained import component


def _same(x: Tensor, _rig: Any) -> Tensor:
    return x


def sigmas(scheduler: Any, _rig: Any) -> list[float]:
    """Times of a flow's scheduler, after it has sampled."""
    return [float(sigma) for sigma in scheduler.sigmas]


class Parity:
    """Of a flow that takes latents as they are."""

    def __init__(
        self,
        *,
        scheduler: Callable[[Any], Any] = lambda own: own,
        times: Callable[[Any, Any], list[float]] = sigmas,
        asked: Callable[[Any, Any], list[float]] | None = None,
        packed: Callable[[Tensor, Any], Tensor] = _same,
        unpacked: Callable[[Tensor, Any], Tensor] = _same,
        renoised: Callable[[Tensor, Any], Tensor] | None = None,
        end: Callable[[Tensor, Any], Tensor] = _same,
        scale: str = "guidance_scale",
        given: Callable[[float], float] = lambda guidance: guidance,
        call: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """`times` are those of the steps, `asked` those that the network is told if they are others.

        `renoised` is noise as its scheduler adds it, where that is not as it is given.

        `given` is what the pipeline takes for our guidance, under the name `scale`; `end` our last state as its."""
        self.scheduler, self.times, self.packed, self.unpacked = scheduler, times, packed, unpacked
        self.asked, self.renoised = asked or times, renoised or packed
        self.end, self.scale, self.given, self.call = end, scale, given, call


def ddim(own: Any) -> Any:
    """The same noise schedule, at trailing levels, by Euler's rule."""
    from diffusers import DDIMScheduler

    told = {"clip_sample": False, "set_alpha_to_one": True, "timestep_spacing": "trailing"}
    return DDIMScheduler.from_config(own.config, **told)


def levels(scheduler: Any, rig: Any) -> list[float]:
    """Times of a noise schedule, from the last level's on."""
    asked = rig.at.schedule.time_at(scheduler.timesteps.long())
    return [1.0, *asked.tolist(), 0.0]


def first_order(own: Any) -> Any:
    """The same flow, by Euler's rule."""
    corrector = {"disable_corrector": list(range(9))} if "disable_corrector" in own.config else {}
    return type(own).from_config(own.config, solver_order=1, **corrector)


def whole(scheduler: Any, _rig: Any) -> list[float]:
    """Whole thousandths, which some schedulers round to."""
    return (scheduler.timesteps.float() / 1000).tolist()


NOISE = Parity(scheduler=ddim, times=levels)
PIXART = Parity(scheduler=ddim, times=levels, call={"use_resolution_binning": False, "clean_caption": False})
FLUX = {"packed": lambda x, _rig: packed(x), "unpacked": lambda tokens, rig: unpacked(tokens, *rig.space.shape[1:])}


def listed(x: Tensor, _rig: Any) -> Tensor:
    """Latents as tokens [B, H W, C]."""
    return x.flatten(2).transpose(1, 2)


def normalised(z: Tensor, rig: Any) -> Tensor:
    """Latents as the VAE's decoder takes them, as the flow's."""
    mean, deviation = statistics(component(rig.at, "vae", torch.float32))
    return (torch.nn.functional.pixel_unshuffle(z, 2) - mean) / deviation


def placed(tokens: Tensor, rig: Any) -> Tensor:
    """Tokens [B, H W, C] as latents."""
    return tokens.transpose(1, 2).unflatten(2, rig.space.shape[1:])


COGVIDEOX = Parity(
    times=levels,
    packed=lambda x, _rig: x.transpose(1, 2),
    unpacked=lambda x, _rig: x.transpose(1, 2),
    call={"num_frames": 5},
)
PARITY: Mapping[str, Parity] = MappingProxyType(
    {
        "sd15": NOISE,
        "sd2": NOISE,
        "sdxl": NOISE,
        "pixart_alpha": PIXART,
        "pixart_sigma": PIXART,
        "sd3": Parity(),
        "flux_dev": Parity(**FLUX),
        "flux_schnell": Parity(**FLUX, scale="true_cfg_scale", call={"negative_prompt": ""}),
        "qwen_image": Parity(**FLUX, scale="true_cfg_scale", call={"negative_prompt": " "}),
        "sana": Parity(scheduler=first_order, asked=whole, call={"use_resolution_binning": False}),
        "z_image": Parity(given=lambda guidance: guidance - 1),
        "flux2_dev": Parity(renoised=listed, unpacked=placed),
        "flux2_klein": Parity(renoised=listed, unpacked=normalised),
        "wan": Parity(scheduler=first_order, asked=whole, call={"num_frames": 5}),
        "wan22_14b": Parity(scheduler=first_order, asked=whole, call={"num_frames": 5}),
        "wan22_5b": Parity(scheduler=first_order, asked=whole, call={"num_frames": 5}),
        "cogvideox": COGVIDEOX,
        "cogvideox_5b": COGVIDEOX,
        "ltx": Parity(packed=listed, unpacked=placed, call={"num_frames": 5}),
        "hunyuan_video": Parity(call={"num_frames": 9}),
    }
)
"""By the names of `tiny.BUILDERS`."""
