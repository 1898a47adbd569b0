"""Data whose exact velocity is known: Gaussians and one-dimensional mixtures, on any path, in float64."""

import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path as File
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy.integrate import solve_ivp
from torch import Tensor

from stages.core.path import EDM, LINEAR, VP_COSINE, VP_LINEAR, Path, expand
from stages.samplers import RULES, rule_of, sample
from stages.samplers.distillation_plus import ASKS_BESIDE
from stages.samplers.field import Field, Rule, State
from stages.samplers.flow_map import OF_AVERAGES
from stages.samplers.flow_sde import FlowSDE
from stages.samplers.kernels import Transition
from stages.samplers.of_tokens import OfTokens
from stages.samplers.schedules import times_at

F64 = torch.float64
PATHS = (LINEAR, VP_COSINE, VP_LINEAR, EDM)
OF_PATHS = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
PARAMS = File(__file__).parents[2] / "params"


def choice(group: str, name: str) -> dict[str, Any]:
    """A row of a table with the knobs of its preset, if it has knobs."""
    file = PARAMS / group / f"{name}.yaml"
    return yaml.safe_load(file.read_text()) if file.is_file() else {"name": name}


EVERY: dict[str, Rule] = {
    name: rule_of(choice("rule", name))
    for name, kind in RULES.items()
    if name not in (*OF_AVERAGES, *ASKS_BESIDE, "boundary_condition", "ddgan", "gotta_go_fast", "paradigms")
    and not issubclass(kind, OfTokens)
}
"""That take the grid's steps with a velocity of numbers; some ask for averages, or another network, ddgan with noise,
boundary_condition begins at its own, the others step at times of their own: each has a file of tests, and so have rules
of tokens."""
KERNELS = frozenset(name for name, rule in EVERY.items() if hasattr(rule, "transition"))
NOISY = KERNELS | {"churn", "ddim", "dpmpp_2m_sde", "er_sde", "langevin", "psld", "restart", "sa_solver", "student_t"}
CALLS = {"heun": 7, "churn": 6, "pndm": 5, "restart": 12, "langevin": 7, "teleport": 3}
"""In four steps from pure noise to data; 4 where nothing is said."""

Velocity = Callable[[Tensor, Tensor], Tensor]


def from_data(path: Path, denoise: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Velocity:
    """The velocity alpha' D + sigma' e of the denoiser D(x, alpha, sigma), with slopes from autograd."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        alpha, d_alpha = _with_slope(path.alpha, t[:1], x)
        sigma, d_sigma = _with_slope(path.sigma, t[:1], x)
        data = denoise(x.double(), alpha, sigma)
        return (d_alpha * data + d_sigma * (x.double() - alpha * data) / sigma).to(x.dtype)

    return velocity


def _with_slope(curve: Callable[[Tensor], Tensor], t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False), torch.enable_grad():
        node = t.double().clone().requires_grad_()
        value = curve(node) + 0 * node
        (slope,) = torch.autograd.grad(value.sum(), node)
    return expand(value.detach(), like), expand(slope, like)


def from_scheduler(alphas_cumprod: Tensor) -> Path:
    """The path of a scheduler of diffusers in steps of 1 / len: its level k is at (k + 1) / len, no noise at 0."""
    table = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod]).double().sqrt()

    def alpha(t: Tensor) -> Tensor:
        place = t * (len(table) - 1)
        low = place.detach().round(decimals=6).floor().long().clamp(0, len(table) - 2)
        return table[low] + (place - low) * (table[low + 1] - table[low])

    return Path("scheduler", alpha, lambda t: (1 - alpha(t).square()).clamp_min(0).sqrt())


def gaussian(path: Path, mean: float, std: float) -> Velocity:
    """Velocity of data N(mean, std^2)."""
    return from_data(path, lambda x, a, s: mean + a * std**2 * (x - a * mean) / (a**2 * std**2 + s**2))


def law(rule: str | Rule, path: Path, times: Tensor, *, mean: float = 1.0, std: float = 0.5) -> tuple[float, Tensor]:
    """The law of a sampler's end on data N(mean, std^2), from the exact marginal at times[0]: it is affine there.

    The end's mean, and its slopes on the standard normals that made it: the state at times[0], then each draw.
    """
    alpha, sigma = path.alpha(times[:1]), path.sigma(times[:1])
    spread, draws = (alpha * std).square().add(sigma.square()).sqrt(), 0

    def count(_node: int, x: Tensor) -> Tensor:
        nonlocal draws
        draws += 1
        return torch.zeros_like(x)

    velocity = gaussian(path, mean, std)
    sample(velocity, torch.zeros(1, 1, dtype=F64), times, rule, path=path, rng=count)
    columns = iter(torch.eye(draws + 2, dtype=F64)[:, 1:].T)  # row 0 draws nothing, row k only the k-th
    start = alpha * mean + spread * next(columns)[:, None]
    ends = sample(velocity, start, times, rule, path=path, rng=lambda _node, _x: next(columns)[:, None]).x0.flatten()
    return ends[0].item(), ends[1:] - ends[0]


def law_gap(rule: str | Rule, path: Path, steps: int) -> float:
    """Variance of a sampler's end less that of the marginal there, on even steps in log(sigma / alpha)."""
    times = log_grid(path, steps, 0.95, 0.02)
    variance = law(rule, path, times)[1].square().sum().item()
    return variance - (path.alpha(times[-1]) * 0.5).square().item() - path.sigma(times[-1]).square().item()


def law_order(rule: str | Rule, path: Path, steps: int = 40) -> float:
    """The power of the step with which that gap shrinks, of `steps` and of twice as many."""
    return math.log2(law_gap(rule, path, steps) / law_gap(rule, path, 2 * steps))


WEIGHTS = torch.tensor([0.3, 0.5, 0.2], dtype=F64)
MEANS = torch.tensor([-1.2, 0.4, 1.5], dtype=F64)
STDS = torch.tensor([0.35, 0.5, 0.3], dtype=F64)


def mixture_data(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x] under the three-component mixture."""
    x = x[..., None]
    alpha, sigma = (v.reshape(-1, *(1,) * (x.dim() - 1)) for v in (alpha, sigma))
    var = alpha**2 * STDS**2 + sigma**2
    chance = (WEIGHTS.log() - 0.5 * var.log() - 0.5 * (x - alpha * MEANS) ** 2 / var).softmax(-1)
    return (chance * (MEANS + alpha * STDS**2 / var * (x - alpha * MEANS))).sum(-1)


def mixture(path: Path) -> Velocity:
    """Velocity of the mixture."""
    return from_data(path, mixture_data)


def exact_end(path: Path, x: Tensor, start: float, end: float) -> Tensor:
    """The mixture's probability-flow ODE from time `start` to `end`."""
    return solved(path, x, start, end)(torch.tensor(end, dtype=F64))


def solved(path: Path, x: Tensor, start: float, end: float) -> Callable[[Tensor], Tensor]:
    """The same at any time [] between, by DOP853 in (x/alpha, sigma/alpha)."""
    ends = torch.tensor([start, end], dtype=F64)
    rho, alpha = path.rho(ends).tolist(), path.alpha(ends)

    def slope(r: float, y: np.ndarray) -> np.ndarray:
        data = mixture_data(torch.from_numpy(y), torch.ones(1, dtype=F64), torch.tensor([r], dtype=F64))
        return (y - data.numpy()) / r

    run = solve_ivp(slope, rho, (x / alpha[0]).numpy(), method="DOP853", rtol=1e-12, atol=1e-12, dense_output=True)
    return lambda t: torch.from_numpy(run.sol(path.rho(t).item())) * path.alpha(t)


def log_grid(path: Path, n: int, start: float, end: float) -> Tensor:
    """n + 1 times from start to end with even steps in log(sigma / alpha)."""
    hi, lo = path.rho(torch.tensor([start, end], dtype=F64)).log().tolist()
    return times_at(torch.linspace(hi, lo, n + 1, dtype=F64).exp(), path)


START = torch.linspace(-2, 2, 41, dtype=F64)


def order(rule: str | Rule, path: Path, *, steps: int = 80, exact: int = 0) -> float:
    """The power of the step with which errors on the mixture shrink, of `steps` and of twice as many.

    The states after the first `exact` steps are put right, so that no history is missing that later steps have.
    """
    start, end = 0.95, 0.02
    truth = _solved(path, start, end)

    def error(num: int) -> float:
        times = log_grid(path, num, start, end)

        def put_right(_field: Field, state: State, node: int) -> State:
            return State(truth(times[node]), state.memory) if node <= exact else state

        made = sample(mixture(path), START, times, rule, path=path, steer=put_right).x0
        return (made - truth(times[-1])).norm().item()

    return math.log2(error(steps) / error(2 * steps))


@lru_cache
def _solved(path: Path, start: float, end: float) -> Callable[[Tensor], Tensor]:
    return solved(path, START, start, end)


def flow_sde_step(times: Tensor, index: Tensor, noise_level: float) -> Transition:
    """The Flow-SDE step from times[index] to times[index + 1]."""
    return FlowSDE(name="flow_sde", noise_level=noise_level).transition(times, index)
