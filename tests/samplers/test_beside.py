"""Samplers that ask another network beside their own: who is asked where, what it costs, what the steps come to."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.core.config import check
from stages.core.path import LINEAR, VP_COSINE, expand
from stages.core.rng import normal_at, stream
from stages.core.spec import SamplerSpec, even
from stages.samplers import Solution, drive, rule_of, sample
from stages.samplers.field import Field, State, drawing
from stages.samplers.fields import field_of, over
from stages.samplers.grid import build
from stages.samplers.program import program
from stages.samplers.prompted import Prompted
from stages.samplers.spec import Sampler, calls

F64 = torch.float64
MEAN, STD = 0.8, 0.5


def bend(x: Tensor, t: Tensor) -> Tensor:
    return torch.sin(2 * x) + expand(t, x) ** 2


def posterior(x: Tensor, t: Tensor) -> Tensor:
    """The velocity of a Gaussian's flow."""
    sigma = expand(t, x)
    alpha = 1 - sigma
    data = MEAN + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)
    return (x - data) / sigma


def jump(x: Tensor, t: Tensor) -> Tensor:
    """The velocity by which one step from anywhere ends where that flow does."""
    sigma = expand(t, x)
    alpha = 1 - sigma
    data = MEAN + STD / (alpha**2 * STD**2 + sigma**2).sqrt() * (x - alpha * MEAN)
    return (x - data) / sigma


class Two:
    """A network and its companion, which notes what it is asked."""

    share_beside = 0.25

    def __init__(self, own: Any, other: Any) -> None:
        self.own, self.other, self.asked = own, other, list[tuple[float, int]]()

    def __call__(self, x: Tensor, t: Tensor, _cond: Tensor) -> Tensor:
        return self.own(x, t)

    def beside(self, x: Tensor, t: Tensor, cond: Tensor, told: Tensor | None = None) -> Tensor:
        self.asked.append((t[0].item(), len(x)))
        scale = torch.where(cond == 0, 0.5, 1.0).reshape(-1, *[1] * (x.dim() - 1))  # without a prompt it says less
        return scale * (self.other(x, t) if told is None else self.other(x, t, told))


def run(network: Two, spec: SamplerSpec, count: int = 3, noise: Tensor | None = None) -> Solution:
    noise = torch.randn(count, 2, dtype=F64, generator=stream(0, "noise")) if noise is None else noise
    prompted = Prompted(network, torch.ones(len(noise), 1, dtype=torch.int64), spec.guidance)
    draw = lambda node, x: normal_at(1, f"node{node}", 0, len(x), tuple(x.shape[1:])).to(x)  # noqa: E731
    field = over(field_of(spec.field))(prompted, build(LINEAR, spec.times), noise)
    return drive(field, noise, rule_of(spec.rule), rng=draw)


def plus(steps: int, share: float, first: int = 1, guidance: float = 1.0, going_on: str = "renoise") -> SamplerSpec:
    rule = {"name": "distillation_plus", "share": share, "first": first, "guidance": guidance, "going_on": going_on}
    return check(
        Sampler, {"rule": rule, "schedule": {"name": "uniform", "steps": steps}, "guidance": 1.0}, "sampler"
    ).spec


@pytest.mark.parametrize(("going_on", "plain"), [("renoise", "renoise"), ("ddim", "euler")])
def test_without_a_share_it_is_the_student_and_asks_nobody(going_on: str, plain: str) -> None:
    network = Two(bend, posterior)
    ours = run(network, plus(4, 0.0, first=2, going_on=going_on))
    theirs = run(network, even(4, rule=plain))
    torch.testing.assert_close(ours.x0, theirs.x0, rtol=1e-12, atol=1e-12)
    assert not network.asked
    assert ours.cost == theirs.cost == 4


def test_with_all_of_it_the_step_goes_on_from_the_companion_s_data_and_no_more() -> None:
    network, field_steps = Two(bend, posterior), build(LINEAR, even(3).times)
    noise = torch.randn(5, 2, dtype=F64, generator=stream(0, "noise"))
    field = Field(Prompted(network, torch.ones(5, 1, dtype=torch.int64)), field_steps, noise)
    rule = rule_of({**plus(3, 1.0, first=2).rule, "going_on": "ddim"})
    zero = lambda _node, x: torch.zeros_like(x)  # noqa: E731
    state = rule.step(field, State(noise), 0, drawing(zero, rule))
    student = noise - bend(noise, torch.ones(5, dtype=F64))
    level = torch.full((5,), 2 / 3, dtype=F64)
    seen = student / 3
    told = seen - 2 / 3 * posterior(seen, level)
    torch.testing.assert_close(state.x, told / 3 + 2 / 3 * (noise + 0 * told))
    assert network.asked == [(pytest.approx(2 / 3), 5)]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_with_a_perfect_student_variance_falls_as_the_share_grows(share: float) -> None:
    """A Gaussian, whose student jumps to its samples from anywhere, and whose teacher tells the mean."""
    noise = torch.randn(200_000, 1, dtype=F64, generator=stream(0, "noise"))
    x0 = run(Two(jump, posterior), plus(2, share), noise=noise).x0
    alpha = sigma = 0.5
    kept = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    data = STD**2 * (1 - share + share * kept * alpha) ** 2 + (share * kept * sigma) ** 2
    std = STD * math.sqrt((alpha**2 * data + sigma**2) / (alpha**2 * STD**2 + sigma**2))
    assert x0.mean().item() == pytest.approx(MEAN, abs=5e-3)
    assert x0.std().item() == pytest.approx(std, rel=5e-3)
    assert (std < STD) == (share > 0)


def test_its_companion_is_guided_by_itself_and_counted_by_its_share() -> None:
    network = Two(bend, posterior)
    found = run(network, plus(4, 0.1, first=2, guidance=3.0))
    assert network.asked == [(0.75, 6), (0.5, 6)]
    assert found.cost == 4 + 2 * 2 * 0.25
    assert calls(plus(4, 0.1, first=2)) == 6, "at most, where it is not known"
    steps = [step for step in program(plus(3, 0.5, first=2, guidance=3.0)) if step[0] == "beside"]
    assert [step[2:] for step in steps] == [[pytest.approx(2 / 3), 3.0], [pytest.approx(1 / 3), 3.0]]
    with pytest.raises(ValueError, match="first=2 of 2 steps: behind each there has to be a level"):
        plus(2, 0.1, first=2)


def turbo(steps: int, heun: int, refined: int) -> SamplerSpec:
    return even(steps, rule="flow_turbo", heun=heun, refined=refined)


def exact(x: Tensor, t: Tensor, last: Tensor) -> Tensor:
    return bend(x, t) - last


def test_flow_turbo_is_heun_s_rule_or_the_pseudo_corrector_at_its_ends() -> None:
    network = Two(bend, exact)
    torch.testing.assert_close(run(network, turbo(5, 5, 0)).x0, run(network, even(5, rule="heun")).x0)
    pseudo = run(network, even(5, rule="pseudo_corrector"))
    ours = run(network, turbo(5, 0, 0))
    torch.testing.assert_close(ours.x0, pseudo.x0)
    assert ours.cost == pseudo.cost == 5
    assert not network.asked


def test_a_refiner_that_is_right_takes_the_place_of_the_network() -> None:
    network = Two(bend, exact)
    refined = run(network, turbo(6, 1, 3))
    torch.testing.assert_close(refined.x0, run(Two(bend, exact), turbo(6, 1, 0)).x0)
    assert [time for time, _ in network.asked] == [pytest.approx(2 / 6), pytest.approx(1 / 6)]
    assert refined.cost == 2 + 2 + 2 * 0.25, "Heun's step asks twice, the last none"
    still = run(Two(bend, lambda x, _t, _last: 0 * x), turbo(6, 1, 3))
    assert not torch.allclose(still.x0, refined.x0)


def test_flow_turbo_is_told_the_last_slope() -> None:
    told = []

    def note(x: Tensor, t: Tensor, last: Tensor) -> Tensor:
        told.append((x, last))
        return 0 * x

    run(Two(bend, note), turbo(2, 1, 1), 2)
    assert not told, "its last step takes no call"
    run(Two(bend, note), turbo(3, 1, 2), 2)
    [(_, last)] = told
    noise = torch.randn(2, 2, dtype=F64, generator=stream(0, "noise"))
    times = [torch.full((2,), time, dtype=F64) for time in (1.0, 2 / 3)]
    torch.testing.assert_close(last, bend(noise - (1 - times[1][0]) * bend(noise, times[0]), times[1]))
    steps = program(turbo(3, 1, 2))
    [(place, beside)] = [(place, step) for place, step in enumerate(steps) if step[0] == "beside"]
    assert beside[2:4] == [pytest.approx(1 / 3), 1.0]
    assert steps[beside[4] - 1] == ["velocity", beside[4] - 1, pytest.approx(2 / 3)], (
        "told the slope at the state before"
    )
    assert beside[1] == place, "asked at the state that was just made"
    with pytest.raises(ValueError, match="heun=2 and refined=2 steps are more than there are, 3"):
        check(
            Sampler,
            {"rule": turbo(9, 2, 2).rule, "schedule": {"name": "uniform", "steps": 3}, "guidance": 1.0},
            "sampler",
        )
    with pytest.raises(ValueError, match="'flow_turbo' steps along the linear path, not along vp_cosine"):
        sample(bend, noise, [0.8, 0.4], rule_of(turbo(1, 0, 0).rule), path=VP_COSINE)


def stitched(share: float, **moments: float) -> SamplerSpec:
    told = {"rule": {"name": "euler"}, "schedule": {"name": "uniform", "steps": 4}, "guidance": 1.0}
    return check(Sampler, {**told, "field": {"name": "t_stitch", "share": share, **moments}}, "sampler").spec


def test_a_small_network_takes_the_noisy_steps_and_its_companion_the_others() -> None:
    network = Two(bend, posterior)
    found = run(network, stitched(0.5))
    x = torch.randn(3, 2, dtype=F64, generator=stream(0, "noise"))
    for time, velocity in ((1.0, bend), (0.75, bend), (0.5, posterior), (0.25, posterior)):
        x = x - 0.25 * velocity(x, torch.full((3,), time, dtype=F64))
    torch.testing.assert_close(found.x0, x)
    assert network.asked == [(0.5, 3), (0.25, 3)]
    assert (found.nfe, found.cost) == (4, 2 + 2 * 0.25)
    with pytest.raises(ValueError, match=r"mean=0\.0, std=None: state both, or leave both out"):
        stitched(0.5, mean=0.0)


def test_a_teacher_s_own_sampler_asks_it_for_no_more_than_it_has() -> None:
    told = {"rule": {"name": "euler"}, "schedule": {"name": "uniform", "steps": 4}, "guidance": 1.0}
    check(Sampler, told, "sampler").takes((1, 2, 2))
    for more in ({"rule": plus(4, 0.1).rule}, {"field": {"name": "t_stitch", "share": 0.5}}):
        with pytest.raises(ValueError, match="it asks another network too, and a teacher carries none"):
            check(Sampler, told | more, "sampler").takes((1, 2, 2))
    with pytest.raises(ValueError, match="field=nasa leads away from a negative prompt, and a stage names none"):
        check(Sampler, told | {"field": {"name": "nasa", "weight": 0.2}}, "sampler").takes((1, 2, 2))
    with pytest.raises(ValueError, match="the sampler asks another network beside its own, and there is none"):
        sample(bend, torch.zeros(1, 2, dtype=F64), even(2).times, rule_of(plus(2, 0.5).rule), rng=stream(0, "x"))


@pytest.mark.parametrize("spec", [plus(3, 0.5), turbo(4, 1, 2), stitched(0.5)])
def test_who_has_no_companion_says_so(spec: SamplerSpec) -> None:
    noise = torch.zeros(1, 2)
    field = over(field_of(spec.field))
    alone = Prompted(lambda x, _t, _cond: x, torch.ones(1, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="a function carries no other network, and the sampler asks for one"):
        drive(field(alone, build(LINEAR, spec.times), noise), noise, rule_of(spec.rule), rng=stream(0, "x"))
