"""Teleportation: exact for a normal law over steps of any length, then the rule from there; its fit; One More Step."""

import math
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch

from stages import trajectories
from stages.core.config import check
from stages.core.path import LINEAR, VP_COSINE
from stages.core.rng import stream
from stages.io.expected import Expected
from stages.io.job import Job
from stages.samplers import drive, rule_of, sample
from stages.samplers.field import Adaptive, State
from stages.samplers.fields import field_of, over
from stages.samplers.fits import fit_of
from stages.samplers.fits.dc_solver import followed
from stages.samplers.fits.model import Fitting
from stages.samplers.fits.teleport import moments
from stages.samplers.gaussian import MOST_NUMBERS, GaussianLaw
from stages.samplers.grid import build
from stages.samplers.heun import EdmHeun
from stages.samplers.program import program
from stages.samplers.schedules import log_uniform, uniform
from stages.samplers.solvers import Solver
from stages.samplers.spec import Sampler, calls
from stages.steering.noisy import why_not_noisy
from tests.samplers.rigs import EVERY, F64, NOISY, OF_PATHS, STDS, from_data, gaussian, log_grid
from tests.samplers.test_dc_solver import LAW, model

ONE = {"mean": [0.0], "rest": 0.25, "directions": [], "variances": []}
TURNED = {
    "mean": [1.0, -0.5, 0.2],
    "rest": 0.04,
    "directions": [[0.6, 0.8, 0.0], [0.0, 0.0, -1.0]],
    "variances": [1.5, 0.3],
}


def teleport(skipped, then="euler", law=ONE):
    return rule_of({"name": "teleport", "skipped": skipped, "law": law, "then": asdict(EVERY[then])})


def sampler(rule, steps=4, **more):
    schedule = {"name": "uniform", "steps": steps}
    return check(Sampler, {"rule": asdict(rule), "schedule": schedule, "guidance": 1.0, **more}, "sampler")


def turned(path):
    """The velocity of TURNED's law, by its covariance."""
    mean, rows = torch.tensor(TURNED["mean"], dtype=F64), torch.tensor(TURNED["directions"], dtype=F64)
    spread = torch.tensor(TURNED["variances"], dtype=F64) - TURNED["rest"]
    covariance = TURNED["rest"] * torch.eye(3, dtype=F64) + rows.T @ torch.diag(spread) @ rows

    def denoise(x, a, s):
        gain = a * covariance @ torch.linalg.inv(a**2 * covariance + s**2 * torch.eye(3, dtype=F64))
        return mean + (x - a * mean) @ gain.T

    return from_data(path, denoise)


@OF_PATHS
def test_the_jump_is_the_flow_of_the_law_and_two_are_one(path):
    x = torch.randn(5, 3, dtype=F64, generator=stream(0, "x"))
    law, fine = check(GaussianLaw, TURNED, "law"), log_grid(path, 100, 0.95, 0.05)
    expected = sample(turned(path), x, fine, "unipc", path=path).x0
    ends = build(path, fine[[0, -1]])
    torch.testing.assert_close(law.moved(x, ends, 0), expected, rtol=0, atol=1e-4)
    grid = build(path, fine[[0, 40, -1]])
    torch.testing.assert_close(law.moved(law.moved(x, grid, 0), grid, 1), law.moved(x, ends, 0), rtol=0, atol=1e-13)


def test_a_law_without_directions_scales_each_number_alike():
    x = torch.randn(4, 1, 2, 2, dtype=F64, generator=stream(0, "x"))
    grid, std = build(LINEAR, [0.8, 0.3]), 0.4
    law = check(GaussianLaw, ONE | {"mean": [0.7], "rest": std**2}, "law")
    ratio = math.hypot(0.7 * std, 0.3) / math.hypot(0.2 * std, 0.8)
    torch.testing.assert_close(law.moved(x, grid, 0), 0.7 * 0.7 + ratio * (x - 0.2 * 0.7), rtol=0, atol=1e-14)


@pytest.mark.parametrize("then", sorted(each.__name__ for each in (*Solver.__args__, EdmHeun)))
def test_it_goes_on_as_the_rule_from_the_node_that_it_lands_on(then):
    name = next(key for key, rule in EVERY.items() if type(rule).__name__ == then)
    times, velocity = uniform(8), gaussian(LINEAR, 0.7, 0.4)
    x = torch.randn(3, 1, 2, 2, generator=stream(0, "x"))
    made = sample(velocity, x, times, teleport(3, name), keep=(3,), rng=stream(1, "draws"))
    expected = sample(velocity, made.states[0], times[3:], EVERY[name], rng=stream(1, "draws"))
    assert torch.equal(made.x0, expected.x0)
    assert made.nfe == expected.nfe
    assert not isinstance(EVERY[name], Adaptive)


def test_a_field_answers_at_its_own_nodes_from_there_on():
    seen = []

    def network(x, t):
        seen.append(round(t[0].item(), 6))
        return x

    x, grid = torch.ones(1, 1, 1, 1, dtype=F64), build(LINEAR, uniform(4))
    scaled = field_of({"name": "time_tuner", "scales": [1.0, 1.0, 0.5, 1.2]})
    drive(over(scaled)(network, grid, x), x, teleport(2))
    assert seen == [0.25, 0.3]


def test_calls_and_noise_are_counted_for_laws_of_any_size():
    spec = sampler(teleport(2, "heun", TURNED), 5).spec
    assert calls(spec) == 5
    assert why_not_noisy(spec)
    drawing = [name for name in NOISY if type(EVERY[name]) in Solver.__args__]
    assert drawing
    assert all(not why_not_noisy(sampler(teleport(1, name, TURNED)).spec) for name in drawing)


def test_a_student_carries_a_law_of_one_variance_and_no_other():
    steps = program(sampler(teleport(2)).spec)
    assert [step[0] for step in steps[:2]] == ["scale", "scale"]
    assert [step[2] for step in steps if step[0] == "velocity"] == [0.5, 0.25]
    own = program(sampler(teleport(2, law=ONE | {"mean": None})).spec)
    assert [step[2] for step in own if step[0] == "velocity"] == [1.0, 0.5, 0.25]
    for law in (TURNED, ONE | {"mean": [0.1]}, TURNED | {"mean": None}):
        with pytest.raises(
            ValueError,
            match=r"sampler rule teleport calls aten.*: a saved pipeline only adds, multiplies",
        ):
            program(sampler(teleport(2, law=law)).spec)


@pytest.mark.parametrize(
    ("law", "message"),
    [
        ({"variances": [1.0]}, "there are 2 directions and 1 variances; name one of each"),
        ({"mean": [0.0]}, "the mean has 1 numbers, and a direction 3; both are of a sample"),
        ({"mean": None, "directions": [[1.0], [0.6, 0.8]]}, "directions differ in their numbers"),
        ({"directions": [[0.6, 0.8, 0.0], [0.0, 0.6, 0.8]]}, "of length 1 and at right angles to each other"),
        ({"directions": [[0.6, 0.7, 0.0], [0.0, 0.0, 1.0]]}, "of length 1 and at right angles to each other"),
        ({"mean": [0.0] * MOST_NUMBERS, "directions": [[0.0] * MOST_NUMBERS] * 2}, "more than a sampler holds, 20000"),
        ({"rest": -1.0}, r"rest"),
    ],
)
def test_a_law_that_is_none_is_refused(law, message):
    with pytest.raises(ValueError, match=message):
        teleport(1, law=TURNED | law)


def test_steps_and_samples_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="skipped=4 of 4 steps leaves the network none; skip fewer"):
        sampler(teleport(4))
    left = rule_of({"name": "dc_solver", "ratios": [1.0] * 4})
    rule = {"name": "teleport", "skipped": 1, "law": ONE, "then": asdict(left)}
    sampler(rule_of(rule), 5)
    with pytest.raises(ValueError, match="4 ratios, and the sampler takes 3 steps"):
        sampler(rule_of(rule), 4)
    with pytest.raises(ValueError, match="of samples of 3 numbers, and these have 4; fit one to this model"):
        sample(gaussian(LINEAR, 0.0, 1.0), torch.zeros(2, 1, 2, 2), uniform(4), teleport(1, law=TURNED))
    with pytest.raises(ValueError, match=r"then\.name: 'flow_map' is none of"):
        rule_of(rule | {"then": {"name": "flow_map", "depth": 0.0}})


def test_one_more_step_puts_the_mean_right_that_a_start_before_pure_noise_moves():
    """Data N(0.7, 0.4^2), a schedule that ends at alpha 0.068265; the flow from there on is the exact one."""
    mean, std, alpha = 0.7, 0.4, 0.068265
    level = math.acos(alpha) * 2 / math.pi
    spread = math.hypot(alpha * std, math.sqrt(1 - alpha**2))
    noise = torch.tensor([[0.0], [1.0]], dtype=F64)

    def ends(start):
        low, high = (mean + std * (start.flatten() - alpha * mean) / spread).tolist()
        return pytest.approx((low, high - low), abs=5e-7)

    def jumped(rest):
        law = {"mean": [mean], "rest": rest, "directions": [], "variances": []}
        rule, times = teleport(1, law=law), [1.0, level, 0.0]
        return sample(gaussian(VP_COSINE, mean, std), noise, times, rule, path=VP_COSINE, keep=(1,)).states[0]

    assert ends(noise) == (0.680848, 0.400785), "pure noise, taken for a state of that level"
    assert ends(jumped(0.0)) == (0.7, 0.399850), "One More Step"
    assert ends(jumped(std**2)) == (0.7, 0.4)


def test_a_mean_of_the_networks_is_that_of_each_prompt_at_one_call():
    """Of one component the flow is that of its law: exact however far it jumps, and so is a fit's."""
    seen, law = [], check(GaussianLaw, ONE | {"mean": None, "rest": STDS[0].item() ** 2}, "law")
    cond, noise = torch.tensor([[1], [1], [1]]), torch.randn(3, 1, 1, 1, dtype=F64, generator=stream(0, "noise"))

    def network(x, t):
        seen.append(t[0].item())
        return LAW(x, t, cond)

    made = sample(network, noise, uniform(4), teleport(3, law=asdict(law)), keep=(2,))
    assert seen == [1.0, 0.25]
    assert made.nfe == 2
    spread = math.hypot(0.5 * STDS[0].item(), 0.5)
    torch.testing.assert_close(made.states[0], 0.5 * LAW.means[0] + spread * noise, rtol=0, atol=1e-12)
    x0 = LAW.means[0] + 0.35 * torch.randn(4000, 1, 1, 1, dtype=F64, generator=stream(0, "x0"))
    given = Fitting(LAW, torch.ones(4000, 1, dtype=torch.int64), torch.zeros_like(x0), x0, lambda word: stream(0, word))
    knobs = {"then": {"name": "euler"}, "schedule": {"name": "uniform", "steps": 4}, "guidance": 1.0, "skipped": 2}
    found = fit_of({"name": "teleport", **knobs, "num_samples": 4000, "rank": 0, "mean": "network"}).fitted(given)
    assert found.rule.law.mean is None
    assert found.rule.law.rest == pytest.approx((x0 - LAW.means[0]).square().mean().item())


def test_a_steering_that_forgets_has_the_mean_asked_for_again():
    calls_made = []

    def network(x, t):
        calls_made.append(t[0].item())
        return x

    forget = lambda _field, state, _node: State(state.x)  # noqa: E731
    sample(network, torch.ones(1, 1), uniform(4), teleport(2, law=ONE | {"mean": None}), steer=forget)
    assert calls_made == [1.0, 0.75, 0.5, 0.25]


def test_moments_are_those_of_the_samples():
    x0 = torch.randn(50, 1, 2, 2, generator=stream(0, "x0")) * torch.tensor([2.0, 1.0, 0.5, 0.1]).view(2, 2) + 0.3
    rows = x0.flatten(1).double()
    whole = moments(x0, 4)
    directions = torch.tensor(whole.directions, dtype=F64)
    covariance = directions.T @ torch.diag(torch.tensor(whole.variances, dtype=F64)) @ directions
    torch.testing.assert_close(covariance, rows.T.cov(correction=0))
    assert whole.mean == pytest.approx(rows.mean(0).tolist())
    assert whole.rest == 0.0
    part = moments(x0, 1)
    assert part.directions == whole.directions[:1]
    assert part.rest == pytest.approx(sum(whole.variances[1:]) / 3)
    one = moments(x0, 0)
    assert (one.size, one.mean[0], one.rest) == (1, pytest.approx(rows.mean()), pytest.approx(rows.var(correction=0)))
    with pytest.raises(
        ValueError, match="rank=4: 4 samples of 4 numbers have 3 directions; lower it, or raise num_sampl"
    ):
        moments(x0[:4], 4)


def test_at_as_many_calls_it_is_nearer_to_the_flow_of_the_mixture():
    """Measured: with 3 of 11 steps skipped 0.57 (UniPC, even times) and 0.42 (log_uniform) of the error in 8 calls."""
    seen, data = model(256, "other"), LAW.sample(torch.zeros(1024, 1, dtype=torch.int64), stream(3, "data"))
    given = Fitting(LAW, seen.cond, seen.noise, data.double(), seen.rng)
    truth = followed(seen.under(1.0), seen.noise, [1.0, 0.0], 200)[-1]
    for schedule, times in (
        ({"name": "uniform", "steps": 11}, uniform(8)),
        ({"name": "log_uniform", "steps": 11, "hi": 80.0, "lo": 0.02}, log_uniform(8, lo=0.02)),
    ):
        knobs = {
            "then": {"name": "unipc"},
            "schedule": schedule,
            "guidance": 1.0,
            "skipped": 3,
            "num_samples": 1024,
            "mean": "data",
        }
        found = fit_of({"name": "teleport", "rank": 0, **knobs}).fitted(given)
        assert calls(found.spec) == 8
        assert check(Sampler, found.stated, "sampler") == found
        plain, jumped = (
            (sample(seen.under(1.0), seen.noise, at, rule).x0 - truth).square().mean().sqrt()
            for at, rule in ((times, "unipc"), (found.spec.times, found.rule))
        )
        assert jumped < 0.7 * plain


def test_trajectories_refuse_a_law_of_other_samples_before_any_is_made():
    stated = sampler(teleport(1, law=TURNED)).stated
    section = {"num_trajectories": 4, "shard_size": 2, "sampler": stated, "keep": [], "batch_size": 2}
    cfg = check(trajectories.Config, section | {"dtype": "float32", "store_noise": True}, "trajectories")
    job = Job(stage="trajectories", arm=None, seed=0, section=section, inputs={})
    trajectories.expect(cfg, job, {"teacher": Expected(sketch=SimpleNamespace(shape=(3, 1, 1)))})
    trajectories.expect(cfg, job, {"teacher": None})
    message = r"trajectories\.sampler: rule teleport is for samples of 3 numbers, and the model's have 4; fit one to it"
    with pytest.raises(ValueError, match=message):
        trajectories.expect(cfg, job, {"teacher": Expected(sketch=SimpleNamespace(shape=(1, 2, 2)))})
