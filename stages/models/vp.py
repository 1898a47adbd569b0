"""Variance-preserving diffusion models as flows: a change of variables, and nothing is trained.

With a = sqrt(alphas_cumprod[s]) and b = sqrt(1 - alphas_cumprod[s]) a network sees z = a x0 + b eps. Divided by a + b
that is the flow's x_t = (1 - t) x0 + t eps at t = b / (a + b), and with r(t) = sqrt((1 - t)^2 + t^2)

    a = (1 - t) / r    b = t / r    z = x / r

The network's time s(t), which need not be an integer, is found by linear interpolation of log(a / b). Euler's rule on
the flow is DDIM on the schedule, to the last digits of the latter's tables.

The schedules of most checkpoints end at t_max < 1, before pure noise. Above t_max there are two choices:

- "clamp": the network is asked at its last s with z = x / r(t), and what it takes for the data there gives the
  velocity. It is continuous at t_max, and one step from t = 1 lands on the network's answer to pure noise.
- "stock": noise is taken for a sample of t_max, as diffusers' pipelines do: an Euler step from t > t_max to t_max
  scales it by r(t_max) / r(t), and no network is asked.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from stages.core.path import expand, velocity_from_data

Prediction = Literal["epsilon", "v_prediction", "sample"]
Above = Literal["clamp", "stock"]
Ask = Callable[[Tensor, Tensor], Tensor]
"""The network's own answer at (z [B, ...], s [B])."""

_SHIFT = "snr_shift_scale"
_WORDS = (
    "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr", _SHIFT,
)  # fmt: skip
"""What decides a noise schedule."""


def radius(t: Tensor) -> Tensor:
    """r(t), of a point of the flow over a point of the schedule."""
    return ((1 - t).square() + t.square()).sqrt()


@dataclass(frozen=True)
class Schedule:
    """A noise schedule of S levels, and what its network predicts."""

    ratios: Tensor
    """log(a / b) float64 [S], falling; the last may be -inf."""
    prediction: Prediction
    above: Above

    @classmethod
    def of(cls, scheduler: Mapping[str, Any], above: Above) -> "Schedule":
        """That of a checkpoint's scheduler_config.json, read by diffusers' own DDIM."""
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler
        from diffusers.schedulers.scheduling_ddim_cogvideox import CogVideoXDDIMScheduler

        words = {name: scheduler[name] for name in _WORDS if name in scheduler}
        made = CogVideoXDDIMScheduler(**words) if _SHIFT in words else DDIMScheduler(**words)
        alphas = made.alphas_cumprod.double()
        ratios = (alphas.log() - (1 - alphas).log()) / 2
        return cls(ratios, scheduler.get("prediction_type", "epsilon"), above)

    def time_at(self, s: Tensor) -> Tensor:
        """t of the schedule's levels s, int64."""
        return torch.sigmoid(-self.ratios[s])

    @property
    def t_max(self) -> float:
        """Of the last level."""
        return float(torch.sigmoid(-self.ratios[-1]))

    def level(self, t: Tensor) -> Tensor:
        """s(t) in [0, S - 1], of t's type."""
        ratios = self.ratios.to(t.device)
        asked = torch.logit(1 - t.double())
        # The first level whose ratio is no larger than what is asked for, and the one before it.
        after = torch.searchsorted(-ratios, -asked).clamp(1, len(ratios) - 1)
        above, below = ratios[after - 1], ratios[after]
        share = ((above - asked) / (above - below)).clamp(0, 1)
        s = torch.where(t >= self.t_max, len(ratios) - 1.0, after - 1 + share)
        return s.to(t.dtype)

    def velocity(self, x: Tensor, t: Tensor, ask: Ask) -> Tensor:
        """The flow's velocity at (x [B, ...], t [B])."""
        time = expand(t, x)
        r, beyond = radius(time), t > self.t_max
        if self.above == "stock" and beyond.all():
            return self._scaled(x, time)
        z, s = x / r, self.level(t)
        answer = ask(z, s)
        v = self._inside(x, time, r, answer)
        if not beyond.any():
            return v
        outside = self._scaled(x, time) if self.above == "stock" else self._clamped(x, t, z, answer)
        return torch.where(expand(beyond, x), outside, v)

    def _inside(self, x: Tensor, t: Tensor, r: Tensor, answer: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return (answer - x) / (1 - t).clamp_min(1e-6)  # t = 1 is beyond the schedule, and another's answer taken
        if self.prediction == "v_prediction":
            return (2 * t - 1) / r.square() * x + answer / r
        return (x - answer) / t.clamp_min(float(self.time_at(torch.tensor(0))))

    def _clamped(self, x: Tensor, t: Tensor, z: Tensor, answer: Tensor) -> Tensor:
        last = self.ratios[-1]
        a, b = float(torch.sigmoid(2 * last).sqrt()), float(torch.sigmoid(-2 * last).sqrt())
        data = {
            "epsilon": lambda: (z - b * answer) / a,
            "v_prediction": lambda: a * z - b * answer,
            "sample": lambda: answer,
        }[self.prediction]()
        return velocity_from_data(x, data, t)

    def _scaled(self, x: Tensor, t: Tensor) -> Tensor:
        end = torch.tensor(self.t_max, dtype=t.dtype, device=t.device)
        gap = (t - end).clamp_min(torch.finfo(t.dtype).tiny)
        return x * (1 - radius(end) / radius(t)) / gap
