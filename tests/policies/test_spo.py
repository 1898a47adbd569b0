"""Step-aware preference optimisation: its numbers on a Gaussian, who goes on, what the judge is taught, what counts."""

import math
from dataclasses import asdict, replace
from itertools import permutations

import pytest
import torch
from torch import Tensor, nn

from stages.core.config import check
from stages.core.rng import stream
from stages.core.spec import even
from stages.core.types import World
from stages.models.space import Points
from stages.policies import spo
from stages.samplers.anchored import Anchored
from stages.samplers.cps import CPS
from stages.samplers.dance_sde import DanceSDE
from stages.samplers.ddim import DDIM
from stages.samplers.flow_sde import FlowSDE
from stages.samplers.kernels import grid_like
from tests.policies.groups import gradient, level, mean_pixel, prepared, slope_of, tiny
from tests.training.gaussian import GaussianVelocity, Pixels, ShiftedVelocity, tokens

CONFIG = spo.Config(
    method="spo", rollout_steps=4, nfe=4, in_use="ode", kernel=DDIM(name="ddim", noise_level=1.0, variance="small"),
    guidance=1.0, judged_after=0.25, judge=spo.Learnt(name="learnt", first=0.2, updates=2, lr=1e-3), candidates=3,
    margin=0.0, num_updates=1, steps_per_update=2, beta=2.0, clip_range=0.5, student_lr=1e-4,
)  # fmt: skip
STUDENT = Anchored(name="anchored", depth=1.0)
Kernel = FlowSDE | DanceSDE | CPS | DDIM | Anchored
KERNELS: tuple[Kernel, ...] = (
    CONFIG.kernel, FlowSDE(name="flow_sde", noise_level=0.7), STUDENT, CPS(name="cps", noise_level=0.9),
)  # fmt: skip


class Brightness(nn.Module):
    """A judge by the mean pixel of the features `Pixels` shows, so many times."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float64))

    def forward(self, features: Tensor) -> Tensor:
        return self.scale * features[..., 0].mean(dim=1)


class Watched(Pixels):
    """Notes what it was shown."""

    def __init__(self, mean: float, std: float, size: int) -> None:
        super().__init__(mean, std, size)
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def features(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        self.seen.append((x, t, cond))
        return super().features(x, t, cond)


def judged_by(brightness: nn.Module, cfg: spo.Config) -> World:
    """Tiny networks whose judge is `brightness`."""
    return tiny(spo, cfg, teacher=Pixels(0.0, 1.0, size=4), judge=brightness)


def densities(world: World, given: dict[str, Tensor], cfg: spo.Config, role: str, key: str) -> Tensor:
    """log pi of every judged step [B, S], by torch's own normal law, a mean over elements."""
    times, found = grid_like(even(cfg.rollout_steps).times, given[key]), []
    for place, index in enumerate(spo.steps_of(cfg)):
        x = given["parents"][:, place]
        step = cfg.kernel.transition(times, torch.full((len(x),), index))
        mean = step.mean(x, world.nets[role](x, times[index].expand(len(x)), given["cond"]))
        law = torch.distributions.Normal(mean, step.std.reshape(-1, 1, 1, 1))
        found.append(law.log_prob(given[key][:, place]).flatten(1).mean(dim=1))
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_the_loss_is_dpos_on_every_pair_that_counts(kernel: Kernel) -> None:
    cfg = replace(CONFIG, kernel=kernel, clip_range=0.05)
    world = judged_by(Brightness(), cfg)
    given = prepared(spo, world, cfg)
    given["counts"] = (torch.arange(48).reshape(24, 2) % 3 > 0).double()
    won, lost = (
        (densities(world, given, cfg, "student", key) - densities(world, given, cfg, "reference", key))
        .exp().clamp(0.95, 1.05).log()
        for key in ("better", "worse")
    )  # fmt: skip
    expected = -nn.functional.logsigmoid(cfg.beta * (won - lost))[given["counts"] > 0].mean()
    value, metrics = spo.loss(world, given, stream(0, "loss"), cfg)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient(value, world.nets["student"]), gradient(expected, world.nets["student"]))
    assert 0 < float(metrics["clipped"]) < 1
    assert float(metrics["pairs"]) == pytest.approx(2 / 3)


def test_at_the_reference_it_is_ln_2_and_pulls_towards_the_better_state() -> None:
    world = level(spo, CONFIG, teacher=Pixels(0.0, 1.0, size=4), judge=Brightness())
    given = prepared(spo, world, CONFIG)
    value, metrics = spo.loss(world, given, stream(0, "loss"), CONFIG)
    assert value.item() == pytest.approx(math.log(2))
    assert float(metrics["kl"]) == 0
    won, lost = (densities(world, given, CONFIG, "student", key).mean() for key in ("better", "worse"))
    expected = -CONFIG.beta / 2 * gradient(won - lost, world.nets["student"])
    torch.testing.assert_close(slope_of(spo, world, given, CONFIG), expected)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_of_two_candidates_the_mean_of_a_step_is_pushed_by_the_known_number(kernel: Kernel) -> None:
    """A judge that likes large states: d(-loss) / d mean = beta / (sqrt(pi) std) in one dimension."""
    cfg = replace(CONFIG, rollout_steps=3, judged_after=0.4, candidates=2, steps_per_update=1, kernel=kernel, nfe=3)
    student, truth = ShiftedVelocity(GaussianVelocity(1.0, 0.5)), GaussianVelocity(1.0, 0.5).requires_grad_(False)
    nets = {"student": student, "reference": truth, "teacher": Pixels(0.0, 1.0), "judge": Brightness()}
    world = World(nets=nets, space=Points((1, 1, 1), torch.float64), reward=mean_pixel)
    given = dict(spo.prepare(world, {"cond": tokens(200_000)}, stream(0, "prepare"), cfg))
    (slope,) = torch.autograd.grad(spo.loss(world, given, stream(0, "loss"), cfg)[0], student.shift)
    step = kernel.transition(grid_like(even(3).times, given["x0"]), torch.tensor([1]))
    known = cfg.beta / (math.sqrt(math.pi) * step.std)
    assert slope.item() == pytest.approx(-(known * step.v_weight).item(), rel=0.01)


def test_whoever_goes_on_is_drawn_evenly() -> None:
    cfg = replace(CONFIG, candidates=4)
    world = judged_by(Brightness(), cfg)
    given = prepared(spo, world, cfg, groups=500, size=8)
    onward = given["parents"][:, 1]
    shares = [(onward == given[key][:, 0]).flatten(1).all(dim=1).double().mean() for key in ("better", "worse")]
    assert shares == pytest.approx([0.25, 0.25], abs=0.03)


def test_candidates_are_next_states_of_one_parent_judged_at_their_own_level() -> None:
    teacher = Watched(0.0, 1.0, size=4)
    world, seen = tiny(spo, CONFIG, teacher=teacher, judge=Brightness()), teacher.seen
    given = prepared(spo, world, CONFIG)
    assert [t.unique().tolist() for _, t, _ in seen] == [[0.5], [0.25]], "steps 1 and 2 of 4 end there"
    for place, (x, _, cond) in enumerate(seen):
        rows = x.reshape(24, 3, 1, 4, 4)
        light = rows.flatten(2).mean(dim=2)
        pick = torch.arange(24)
        assert torch.equal(given["better"][:, place], rows[pick, light.argmax(dim=1)])
        assert torch.equal(given["worse"][:, place], rows[pick, light.argmin(dim=1)])
        assert torch.equal(cond.reshape(24, 3, 1), given["cond"][:, None].expand(24, 3, 1))
        index = spo.steps_of(CONFIG)[place]
        step = CONFIG.kernel.transition(grid_like(even(4).times, x), torch.full((24,), index))
        parent = given["parents"][:, place]
        mean = step.mean(
            parent, world.nets["student"](parent, torch.full((24,), 1 - index / 4).double(), given["cond"])
        )
        noise = (rows - mean[:, None]) / step.std.reshape(-1, 1, 1, 1, 1)
        assert noise.std().item() == pytest.approx(1, abs=0.06)
        assert noise.mean().item() == pytest.approx(0, abs=0.06)


def test_a_pair_counts_where_the_judge_is_surer_than_the_margin() -> None:
    cfg = replace(CONFIG, margin=0.3)
    given = prepared(spo, judged_by(Brightness(2.0), cfg), cfg)
    apart = 2 * (given["better"] - given["worse"]).flatten(2).mean(dim=2)
    chances = torch.stack([apart, torch.zeros_like(apart)]).softmax(dim=0)  # of the two alone, as the code has it
    assert torch.equal(given["counts"], (chances[0] - chances[1] > 0.3).double())
    assert 0 < given["counts"].mean() < 1
    unsure = judged_by(Brightness(0.0), cfg)
    given = prepared(spo, unsure, cfg)
    assert given["counts"].sum() == 0
    assert slope_of(spo, unsure, given, cfg).abs().max() == 0


def test_without_a_judge_of_its_own_the_reward_judges_what_is_seen_from_a_candidate() -> None:
    cfg = replace(CONFIG, judge=spo.Verdict(name="reward"), guidance=2.0)
    world = tiny(spo, cfg)
    assert "judge" not in world.nets
    given = prepared(spo, world, cfg)
    assert given["counts"].bool().all()
    student = world.nets["student"]
    for place, end in enumerate((0.5, 0.25)):
        seen = []
        for key in ("better", "worse"):
            x, t, empty = given[key][:, place], torch.full((24,), end).double(), torch.zeros_like(given["cond"])
            without = student(x, t, empty)
            v = without + 2 * (student(x, t, given["cond"]) - without)
            seen.append((x - end * v).flatten(1).mean(dim=1))
        assert (seen[0] > seen[1]).all(), "mean_pixel is the reward"
    twice = replace(world, reward=lambda x, cond: 1 + 1e-3 * mean_pixel(x, cond))
    for other, margin in ((world, 0.3), (twice, 0.3)):
        counts = prepared(spo, other, replace(cfg, margin=margin))["counts"]
        assert 0.5 < counts.mean() < 1, "whatever the reward's range"
    equal = replace(world, reward=lambda x, _: torch.full((len(x),), 0.1, dtype=x.dtype))
    assert prepared(spo, equal, cfg)["counts"].sum() == 0
    assert [phase.name for phase in spo.phases(cfg)] == ["policy"]
    assert spo.phases(cfg)[0].start == 0


def test_the_judge_is_taught_the_order_of_every_pair_that_the_reward_tells_apart() -> None:
    teacher = Watched(0.0, 1.0, size=4)
    world, seen = tiny(spo, CONFIG, teacher=teacher, judge=Brightness(0.7)), teacher.seen
    given = prepared(spo, world, CONFIG, groups=2, size=4)
    given["reward"] = torch.tensor([0.0, 1.0, 1.0, 3.0, 2.0, 2.0, 2.0, 2.0], dtype=torch.float64)
    seen.clear()
    value, metrics = spo.judge_loss(world, given, stream(0, "judge"), CONFIG)
    [(x_t, t, _)] = seen
    judged = 0.7 * x_t.flatten(1).mean(dim=1)
    rows = [(i, j) for i, j in permutations(range(4), 2) if given["reward"][i] > given["reward"][j]]
    assert len(rows) == 5, "equals say nothing, and the second group is of equals"
    ahead = torch.stack([judged[i] - judged[j] for i, j in rows])
    torch.testing.assert_close(value, -nn.functional.logsigmoid(ahead).mean())
    assert float(metrics["accuracy"]) == pytest.approx((ahead > 0).double().mean().item())
    assert t[:4].unique().numel() == t[4:].unique().numel() == 1, "a group shares its level"
    eps = (x_t - (1 - t.reshape(-1, 1, 1, 1)) * given["x0"]) / t.reshape(-1, 1, 1, 1)
    assert eps.std(dim=0).min() > 0.1, "and not its noise"
    drawn = {
        spo.judge_loss(world, given, stream(seed, "judge"), CONFIG) and seen[-1][1][0].item() for seed in range(20)
    }
    assert drawn == {0.5, 0.25}, "the levels of candidates"


def test_final_samples_are_what_the_reward_judges() -> None:
    world = tiny(spo, CONFIG)
    given = prepared(spo, world, CONFIG)
    torch.testing.assert_close(given["reward"], mean_pixel(given["x0"], given["cond"]))
    given["reward"] = torch.zeros(24, dtype=torch.float64)
    value, _ = spo.judge_loss(world, given, stream(0, "judge"), CONFIG)
    assert value.item() == 0, "equals teach nothing"


def test_a_judge_of_ten_updates_orders_what_it_can_see() -> None:
    """Two kinds of samples, dark and bright, at levels where they can be told apart: it learns which is better."""
    cfg = replace(CONFIG, rollout_steps=8, judged_after=0.5)
    judge = Brightness(0.0)
    world = tiny(spo, cfg, teacher=Pixels(0.0, 1.0, size=4), judge=judge)
    bright = torch.arange(24) % 2
    given = {
        "x0": (2.0 * bright - 1).double().reshape(-1, 1, 1, 1).expand(24, 1, 4, 4),
        "reward": bright.double(),
        "cond": tokens(24),
        "group": torch.arange(3).repeat_interleave(8),
    }
    optimiser = torch.optim.Adam(judge.parameters(), lr=0.3)
    for turn in range(10):
        value, metrics = spo.judge_loss(world, given, stream(turn, "judge"), cfg)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    assert judge.scale > 1
    assert float(metrics["accuracy"]) > 0.95


def test_what_cannot_be_judged_or_trained_is_refused() -> None:
    section = asdict(CONFIG)

    def refused(match: str, **knobs: object) -> None:
        with pytest.raises(ValueError, match=match):
            check(spo.Config, {**section, **knobs}, "rl.arms.spo")

    refused(
        r"judged_after=0.75: of rollout_steps=4 the last has no noise, and no other is left; lower it",
        judged_after=0.75,
    )
    refused(
        r"steps_per_update=3 exceeds the 2 steps with candidates of rollout_steps=4 after judged_after=0.25",
        steps_per_update=3,
    )
    refused(r"candidates: .*greater than or equal to 2", candidates=1)
    refused(r"margin: .*less than 1", margin=1.0)
    refused(r"rollout_steps: .*greater than or equal to 2", rollout_steps=1)
    refused(
        r"kernel.noise_level=0.0: a roll-out without noise has no densities",
        kernel={**section["kernel"], "noise_level": 0.0},
    )
    refused(r"rollout_steps=4 differs from nfe=8: kernel.name=anchored is for a student", kernel=asdict(STUDENT), nfe=8)
    refused(r"guidance=2.0: kernel.name=anchored is for a student", kernel=asdict(STUDENT), guidance=2.0)


def test_it_is_used_along_the_ode_or_by_its_kernel() -> None:
    assert spo.sampler(CONFIG).rule == {"name": "euler"}
    assert spo.sampler(replace(CONFIG, kernel=STUDENT, in_use="kernel")).rule == {"name": "anchored", "depth": 1.0}
    judge, policy = spo.phases(CONFIG)
    assert (judge.start, judge.repeats, policy.start, policy.repeats) == (0.0, 2, 0.2, 1)
