"""A noise schedule as a flow: Euler's rule is DDIM, and above the last level nothing jumps."""

from itertools import pairwise, product
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor

from stages.core.rng import seeded, stream
from stages.models.vp import Above, Prediction, Schedule, radius

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PIXART = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}


@pytest.fixture(scope="module")
def ask() -> Any:
    """A tiny UNet in float64."""
    with seeded(0):
        net = UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=8, attention_head_dim=2, norm_num_groups=4,
        )  # fmt: skip
    net.double().eval().requires_grad_(False)
    text = torch.randn(1, 3, 8, generator=stream(0, "text"), dtype=torch.float64)
    return lambda z, s: net(z, s, encoder_hidden_states=text.expand(len(z), -1, -1), return_dict=False)[0]


def noise() -> Tensor:
    return torch.randn(1, 4, 8, 8, generator=stream(0, "noise"), dtype=torch.float64)


@pytest.mark.parametrize(
    ("prediction", "spacing", "to_one", "betas"),
    list(product(("epsilon", "v_prediction", "sample"), ("leading", "trailing"), (True, False), (SD, PIXART))),
)
def test_eulers_rule_on_the_flow_is_ddim(
    ask: Any, prediction: Prediction, spacing: str, to_one: bool, betas: Any
) -> None:
    told = {**betas, "prediction_type": prediction, "timestep_spacing": spacing, "steps_offset": 1}
    ddim = DDIMScheduler(**told, clip_sample=False, set_alpha_to_one=to_one)
    ddim.set_timesteps(4)
    z = noise()
    for s in ddim.timesteps:
        z = ddim.step(ask(z, s[None].double()), int(s), z).prev_sample
    schedule = Schedule.of(told, "clamp")
    end = 0.0 if to_one else float(schedule.time_at(torch.tensor(0)))
    times = [*schedule.time_at(ddim.timesteps.long()).tolist(), end]
    x = radius(torch.tensor(times[0])) * noise()
    for now, then in pairwise(times):
        x = x + (then - now) * schedule.velocity(x, torch.tensor([now], dtype=torch.float64), ask)
    ours = x / radius(torch.tensor(times[-1], dtype=torch.float64))
    assert float((ours - z).abs().max() / z.abs().max()) < 2e-6  # of diffusers' tables, which are float32


@pytest.mark.parametrize("betas", [SD, PIXART])
def test_levels_and_times_are_inverse(betas: Any) -> None:
    schedule = Schedule.of(betas, "clamp")
    every = torch.arange(1000)
    torch.testing.assert_close(schedule.level(schedule.time_at(every)), every.double(), atol=1e-8, rtol=0)
    between = schedule.level((schedule.time_at(every)[1:] + schedule.time_at(every)[:-1]) / 2)
    assert ((between > every[:-1]) & (between < every[1:])).all()
    assert schedule.level(torch.tensor([0.0, 1.0])).tolist() == [0.0, 999.0]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("above", ["clamp", "stock"])
def test_nothing_jumps_at_the_last_level_and_all_is_finite(ask: Any, prediction: Prediction, above: Above) -> None:
    schedule = Schedule.of({**SD, "prediction_type": prediction}, above)
    x = noise().expand(4, -1, -1, -1)
    end = schedule.t_max
    v = schedule.velocity(x, torch.tensor([0.0, end - 1e-9, end + 1e-9, 1.0], dtype=torch.float64), ask)
    assert v.isfinite().all()
    if above == "clamp":
        torch.testing.assert_close(v[1], v[2], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_one_step_from_noise_lands_on_what_the_network_takes_for_the_data(ask: Any, prediction: Prediction) -> None:
    schedule = Schedule.of({**SD, "prediction_type": prediction}, "clamp")
    x, last = noise(), torch.tensor([999.0], dtype=torch.float64)
    alpha = DDIMScheduler(**SD).alphas_cumprod[-1].double()
    a, b, answer = alpha.sqrt(), (1 - alpha).sqrt(), ask(x, last)
    data = {"epsilon": (x - b * answer) / a, "v_prediction": a * x - b * answer, "sample": answer}[prediction]
    ours = x - schedule.velocity(x, torch.ones(1, dtype=torch.float64), ask)
    torch.testing.assert_close(ours, data)


def test_stock_parity_scales_noise_to_the_last_level_and_asks_nobody() -> None:
    schedule = Schedule.of(SD, "stock")
    x, t = noise(), torch.ones(1, dtype=torch.float64)
    there = x + (schedule.t_max - 1) * schedule.velocity(x, t, lambda _z, _s: pytest.fail("asked"))
    torch.testing.assert_close(there, radius(torch.tensor(schedule.t_max, dtype=torch.float64)) * x)
