"""Flow-GRPO's knobs, by which it is DanceGRPO, GRPO-Guard and others, on the Gaussian whose answers are numbers."""

import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from stages.core.advantage import ends, spread
from stages.core.config import check
from stages.core.rng import stream
from stages.core.spec import even
from stages.core.types import World
from stages.io import params
from stages.models.space import Points
from stages.policies import flow_grpo
from stages.samplers.dance_sde import DanceSDE
from stages.samplers.ddim import DDIM
from stages.samplers.kernels import grid_like as grid
from stages.training.kept import Ends, Spread
from tests.policies.test_flow_grpo import CONFIG, PIXELS, prepared, reward, tiny
from tests.samplers.rigs import flow_sde_step
from tests.training.gaussian import GaussianVelocity, ShiftedVelocity, tokens
from tests.training.tiny import TinyNet

pytestmark = pytest.mark.slow


def rolled(cfg: flow_grpo.Config, groups: int, size: int) -> tuple[World, dict[str, Tensor], ShiftedVelocity]:
    """Trajectories of the exact N(1, .25) velocity."""
    student = ShiftedVelocity(GaussianVelocity(1.0, 0.5))
    nets = {"student": student, "reference": GaussianVelocity(1.0, 0.5)}
    world = World(nets=nets, space=Points((1, 1, 1), torch.float64), reward=reward)
    return world, prepared(world, cfg, groups, size), student


DANCE = replace(CONFIG, kernel=DanceSDE(name="dance_sde", noise_level=0.3))


def test_samples_of_a_group_may_share_their_start() -> None:
    # then they differ by their steps' noise alone: Var(x0 | x1) = .0316 of Var(x0) = .1273
    _, given, _ = rolled(replace(DANCE, shared_start=True), 400, 250)
    starts = given["states"][:, 0].reshape(400, 250)
    assert (starts == starts[:, :1]).all()
    assert len(starts[:, 0].unique()) == 400
    assert given["reward"].reshape(400, 250).var(dim=1).mean().item() == pytest.approx(0.0316, rel=0.03)
    _, given, _ = rolled(DANCE, 400, 250)
    assert given["reward"].var().item() == pytest.approx(0.1273, rel=0.03)


def test_shared_starts_do_away_with_the_variance_of_a_gradient_that_the_start_makes() -> None:
    # Dance-SDE of eta .3, 10 steps, groups of 12: .200 -> .081, at the same mean
    found = []
    for is_shared in (False, True):
        cfg = replace(DANCE, rollout_steps=10, steps_per_update=9, shared_start=is_shared, advantage_scale="none")
        _, given, _ = rolled(cfg, 3000, 12)
        times, score = grid(even(10).times, given["reward"]), torch.zeros_like(given["reward"])
        for k in range(9):
            step = cfg.kernel.transition(times, torch.tensor([k]))
            x, x_next = given["states"][:, k], given["states"][:, k + 1]
            mean = step.mean(x, GaussianVelocity(1.0, 0.5)(x, times[k].expand(len(x)), given["cond"][:, :1] * 0))
            score += ((x_next - mean) * step.v_weight / step.std.square()).flatten()
        estimates = (given["advantage"] * score).reshape(-1, 12).mean(dim=1)
        assert estimates.mean().item() == pytest.approx(-0.7134 * 11 / 12, abs=0.025)
        found.append(estimates.var().item())
    assert found == [pytest.approx(0.200, rel=0.1), pytest.approx(0.081, rel=0.1)]


def test_times_are_pushed_in_roll_outs_and_in_use() -> None:
    cfg = replace(CONFIG, shift=3.0)
    assert flow_grpo.times_of(cfg) == pytest.approx([1.0, 0.9, 0.75, 0.5, 0.0])
    spec = flow_grpo.sampler(replace(cfg, nfe=4))
    assert spec.times == flow_grpo.times_of(cfg)
    assert spec.schedule == {"name": "shifted", "steps": 4, "shift": 3.0}
    assert flow_grpo.sampler(CONFIG) == even(8)
    _, given, _ = rolled(replace(DANCE, shift=3.0), 1, 6)
    times = grid(spec.times, given["reward"])
    last = DANCE.kernel.transition(times, torch.tensor([2]))
    mean = last.mean(given["states"][:, 2], GaussianVelocity(1.0, 0.5)(given["states"][:, 2], times[2:3], tokens(6)))
    expected = -(given["states"][:, 3] - mean).square().flatten() / (2 * 0.3**2 * 0.25)
    torch.testing.assert_close(given["log_prob"][:, 2], expected)


def test_advantages_are_clamped() -> None:
    lone = World(nets=tiny().nets, space=PIXELS, reward=lambda x, _: (torch.arange(len(x)) == 0).to(x))
    assert prepared(lone, groups=1)["advantage"][0].item() == pytest.approx(5**0.5)
    assert prepared(lone, replace(CONFIG, advantage_clip=2.0), groups=1)["advantage"][0].item() == 2
    moved = replace(CONFIG, advantage_clip=0.4)
    assert prepared(lone, moved, groups=1)["advantage"].tolist() == pytest.approx([0.4, *[-0.4] * 5])


def test_without_a_kl_the_reference_is_not_called() -> None:
    nets = {"student": TinyNet(0)}
    world = World(nets=nets, space=PIXELS, reward=reward)
    assert "kl" not in flow_grpo.loss(world, prepared(world), stream(0, "loss"), CONFIG)[1]


GUARD = replace(CONFIG, ratio="normalised", shift=3.0, clip_range=10.0)


def test_normalised_ratios_are_of_the_noise_along_the_move() -> None:
    world, moved = tiny(), tiny(TinyNet(5))
    given, times, total, drift = (
        prepared(world, GUARD),
        grid(flow_grpo.times_of(GUARD), torch.zeros(()).double()),
        0,
        [],
    )
    h = -times.diff()[:-1]
    for k in range(3):
        step = flow_sde_step(times, torch.full((18,), k), 0.7)
        x, x_next = given["states"][:, k], given["states"][:, k + 1]
        ours, old = (step.mean(x, w.nets["student"](x, times[k].expand(18), given["cond"])) for w in (moved, world))
        noise = (x_next - old) / step.std.reshape(-1, 1, 1, 1)
        ratio = (noise * (ours - old)).flatten(1).mean(dim=1).exp()
        total -= (given["advantage"] * ratio).mean().item() * (h.mean() / h[k]).item() / 3
        drift.append((step.log_prob(x_next, ours) - step.log_prob(x_next, old)).mean().item())
    assert max(drift) < -1e-4  # that of the plain one
    value, _ = flow_grpo.loss(moved, given, stream(0, "loss"), GUARD)
    assert value.item() == pytest.approx(total)
    _, metrics = flow_grpo.loss(world, given, stream(0, "loss"), GUARD)
    assert float(metrics["ratio_gap"]) < 1e-12


def test_normalised_ratios_weigh_the_velocity_of_all_steps_alike() -> None:
    # the slope of a log-density is v_weight / std for each unit of the noise; what is left of it is 1 + a^2 / 2
    cfg = replace(GUARD, rollout_steps=10, shift=1.0, steps_per_update=9)
    times = grid(flow_grpo.times_of(cfg), torch.zeros(()).double())
    step = cfg.kernel.transition(times, torch.arange(9))
    plain = [0.143, 0.188, 0.281, 0.368, 0.459, 0.562, 0.689, 0.859, 1.125]
    assert (step.v_weight / step.std).abs().tolist() == pytest.approx(plain, abs=6e-4)
    world, given, student = rolled(cfg, 1, 8)
    given["advantage"] = torch.ones(8, dtype=torch.float64)
    noise = (given["states"][:, 1:] - given["means"]).flatten(1) / step.std
    (slope,) = torch.autograd.grad(flow_grpo.loss(world, given, stream(0, "loss"), cfg)[0], student.shift)
    weights = torch.tensor([0.2928 / 0.3645, *[1.0] * 8], dtype=torch.float64)  # the first by the code's way at t = 1
    expected = 0.1 * (1 + 0.7**2 / 2) * (noise * weights).mean()
    assert slope.item() == pytest.approx(expected.item(), rel=3e-2)


def moved(by: float) -> World:
    world = tiny()
    with torch.no_grad():
        for p in world.nets["student"].parameters():
            p.add_(by)
    return world


def test_the_mask_is_where_the_step_moved_far_and_would_go_on() -> None:
    cfg = replace(CONFIG, trust="kl", clip_range=3e-3)
    world, given, times, total, masked = (
        moved(0.1),
        prepared(tiny(), cfg),
        grid((1.0, 0.75, 0.5, 0.25, 0.0), PIXELS.noise(1, stream(0, "x"))),
        0.0,
        0.0,
    )
    for k in range(3):
        step = flow_sde_step(times, torch.full((18,), k), 0.7)
        x, x_next, advantage = given["states"][:, k], given["states"][:, k + 1], given["advantage"]
        ours, old = (w.nets["student"](x, times[k].expand(18), given["cond"]) for w in (world, tiny()))
        ratio = (step.log_prob(x_next, step.mean(x, ours)) - step.log_prob(x_next, step.mean(x, old))).exp()
        far = (step.kl(ours, old) >= 3e-3) & (advantage * (ratio - 1) > 0)
        total -= (advantage * ratio * ~far).mean().item() / 3
        masked += far.double().mean().item() / 3
    value, metrics = flow_grpo.loss(world, given, stream(0, "loss"), cfg)
    assert 0.1 < masked < 0.9
    assert float(metrics["clipped"]) == pytest.approx(masked)
    assert value.item() == pytest.approx(total)


def test_before_any_update_the_mask_is_empty_and_the_loss_flow_grpos() -> None:
    given = prepared(tiny(), replace(CONFIG, trust="kl"))
    value, metrics = flow_grpo.loss(tiny(), given, stream(0, "loss"), replace(CONFIG, trust="kl", clip_range=1e-5))
    assert float(metrics["clipped"]) == 0
    assert value.item() == pytest.approx(flow_grpo.loss(tiny(), given, stream(0, "loss"), CONFIG)[0].item())


def test_only_kept_samples_are_trained_on_and_all_have_made_the_advantages() -> None:
    whole = prepared(tiny())
    for kept, rows in (
        (Ends(name="ends", share=0.5), ends(whole["advantage"].reshape(3, 6), 1)),
        (Spread(name="spread", share_first=0.5, share_last=0.1), spread(whole["advantage"], 9)),
    ):
        given = prepared(tiny(), replace(CONFIG, kept=kept))
        assert torch.equal(given["reward"], whole["reward"])
        for key in ("states", "log_prob", "advantage", "cond", "group"):
            assert torch.equal(given[key], whole[key][rows])
        assert flow_grpo.loss(tiny(), given, stream(0, "loss"), CONFIG)[0].isfinite()
    later = Spread(name="spread", share_first=1.0, share_last=0.0 + 0.2)
    assert len(later.rows(whole["advantage"], whole["group"], 0.5)) == 11
    assert len(Ends(name="ends", share=1 / 3).rows(torch.arange(24.0), torch.zeros(24, dtype=torch.int64), 0.0)) == 8
    assert Ends(name="ends", share=1.0).rows(torch.arange(5.0), torch.zeros(5, dtype=torch.int64), 0.0).tolist() == [
        0,
        1,
        3,
        4,
    ]


def test_ddpos_gradient_and_optimum_are_those_of_its_chain() -> None:
    # A sum over steps of P_k c_k, and with a KL a mean shift of S1 / beta, for DDIM of eta = 1
    kernel = DDIM(name="ddim", noise_level=1.0, variance="small")
    nodes = flow_grpo.times_of(replace(CONFIG, rollout_steps=8))
    cfg = replace(CONFIG, rollout_steps=8, steps_per_update=7, kernel=kernel, in_use="kernel", advantage_scale="none")
    step = kernel.transition(torch.tensor(nodes, dtype=torch.float64), torch.arange(7))
    slopes = [(t - (1 - t) / 4) / ((1 - t) ** 2 / 4 + t**2) for t in nodes[:-1]]
    gains = [a.item() + b.item() * s for a, b, s in zip(step.x_weight, step.v_weight, slopes, strict=False)]
    gains.append(1 - nodes[-2] * slopes[-1])
    onward = torch.tensor([math.prod(gains[k + 1 :]) for k in range(7)], dtype=torch.float64)
    world, given, student = rolled(cfg, 600, 200)
    (found,) = torch.autograd.grad(flow_grpo.loss(world, given, stream(0, "loss"), cfg)[0], student.shift)
    assert -7 * found.item() == pytest.approx((onward * step.v_weight).sum().item() * 199 / 200, rel=0.02)
    conditional = (onward * step.std).square().sum().item()
    assert given["reward"].var().item() == pytest.approx(conditional + math.prod(gains) ** 2, rel=0.02)
    # a step's own best shift of the velocity is (1 / beta) std^2 P / c: there reward and KL balance
    shifts = step.std.square() * onward / step.v_weight
    assert (onward * step.v_weight * shifts).sum().item() == pytest.approx(conditional)
    kl = (step.v_weight / step.std).square() * shifts
    torch.testing.assert_close(kl, onward * step.v_weight)
    assert flow_grpo.sampler(cfg).rule == {"name": "ddim", "noise_level": 1.0, "variance": "small"}


@pytest.mark.parametrize(
    "preset",
    ["ddpo", "dance_grpo", "grpo_guard", "mix_grpo", "mix_grpo_flash", "flow_grpo_fast", "flow_dppo", "student_grpo"],
)
def test_presets_are_flow_grpo(preset: str) -> None:
    text = params.compose(Path(__file__).parents[2] / "params", ["experiment=digits", f"+policy@rl.arms.a={preset}"])
    section = yaml.safe_load(text)["rl"]["arms"]["a"]
    own = {f.name for f in fields(flow_grpo.Config)}
    cfg = check(flow_grpo.Config, {key: value for key, value in section.items() if key in own}, preset)
    assert prepared(tiny(), cfg)["advantage"].isfinite().all()
