"""ParaDiGMS: DDIM's own samples without a tolerance, fewer rounds with one, and calls and rounds counted apart."""

import pytest
import torch

from stages.core.rng import normal_at, stream
from stages.core.spec import even
from stages.models.mixture import GaussianMixture
from stages.samplers import drive, rule_of, sample
from stages.samplers.field import Field
from stages.samplers.grid import build
from stages.samplers.program import program
from stages.samplers.prompted import Prompted
from stages.samplers.rollout import rolled_out
from stages.samplers.schedules import uniform
from stages.samplers.spec import calls
from tests.samplers.rigs import F64, LINEAR, MEANS, OF_PATHS, START, STDS, WEIGHTS, log_grid
from tests.samplers.rigs import mixture as at_one_time

LAW = GaussianMixture(WEIGHTS, MEANS[:, None], STDS)


def paradigms(window=8, tolerance=0.0, noise_level=0.0):
    knobs = {"window": window, "tolerance": tolerance, "noise_level": noise_level}
    return rule_of({"name": "paradigms", **knobs})


def ddim(noise_level):
    return rule_of({"name": "ddim", "noise_level": noise_level, "variance": "small"})


def drawn(count):
    return lambda node, x: normal_at(3, f"node{node}", 0, count, tuple(x.shape[1:])).to(x)


def asked(count):
    """Prompts that differ from sample to sample."""
    return 1 + torch.arange(count)[:, None] % 3


def run(rule, steps, count=16, guidance=1.0):
    x = torch.randn(count, 1, 1, 1, dtype=F64, generator=stream(0, "noise"))
    network = Prompted(LAW, asked(count), guidance)
    return drive(Field(network, build(LINEAR, uniform(steps)), x), x, rule, rng=drawn(count), keep=range(steps + 1))


@pytest.mark.parametrize("noise_level", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("window", [1, 3, 12, 40])
def test_without_a_tolerance_its_states_are_ddim_s(window, noise_level):
    ours, theirs = run(paradigms(window, 0.0, noise_level), 12), run(ddim(noise_level), 12)
    torch.testing.assert_close(ours.states, theirs.states, rtol=1e-10, atol=1e-10)
    assert ours.rounds <= 12


@OF_PATHS
def test_on_every_path(path):
    """One state at a time: a window of one node."""
    times = log_grid(path, 6, 0.95, 0.02)
    ours, theirs = (sample(at_one_time(path), START, times, rule, path=path) for rule in (paradigms(1), "euler"))
    torch.testing.assert_close(ours.x0, theirs.x0, rtol=1e-12, atol=1e-12)
    assert ours.nfe == ours.rounds == 6


def test_a_window_of_one_is_one_call_after_another():
    made = run(paradigms(1, 0.5), 9)
    assert made.nfe == made.rounds == 9


def test_with_a_tolerance_there_are_fewer_rounds_and_more_calls_and_errors_stay_within_it():
    """Measured, of one sample in 64 steps: 31 rounds, where the last digits stay, 9 and 7; 437, 128 and 99 calls."""
    exact = run(ddim(0.0), 64, count=1)
    made = {tolerance: run(paradigms(16, tolerance), 64, count=1) for tolerance in (0.0, 0.1, 0.5)}
    rounds = [each.rounds for each in made.values()]
    assert rounds[0] > 3 * rounds[1]
    assert rounds[1] > rounds[2]
    assert all(each.nfe > 64 for each in made.values())
    gaps = [(each.x0 - exact.x0).abs().item() for each in made.values()]
    assert gaps[0] < 1e-10 < gaps[1] < 0.02
    assert gaps[2] < 0.1


def test_the_window_moves_past_what_stands_and_one_node_more():
    """Of a constant velocity the first round guesses every node exactly; the second finds that nothing changes."""
    x = torch.tensor([[0.4]], dtype=F64)
    made = sample(lambda x, _t: torch.full_like(x, 0.7), x, uniform(6), paradigms(6, 1e-6), keep=range(7))
    torch.testing.assert_close(made.x0, x - 0.7)
    # From node 0 the guesses change, so that node 1 alone stands; from node 1 all five that are left do.
    assert (made.rounds, made.nfe) == (2, 6 + 5)


def test_batches_leave_no_trace_and_samples_wait_for_each_other():
    rule = paradigms(8, 0.2, 0.5)
    whole = run(rule, 24, count=6)

    def alone(row):
        x = torch.randn(6, 1, 1, 1, dtype=F64, generator=stream(0, "noise"))
        field = Field(Prompted(LAW, asked(6)[row : row + 1]), build(LINEAR, uniform(24)), x[row : row + 1])
        return drive(field, x[row : row + 1], rule, rng=lambda node, _x: drawn(6)(node, x)[row : row + 1])

    parts = [alone(row) for row in range(6)]
    torch.testing.assert_close(whole.x0, torch.cat([part.x0 for part in parts]))
    assert whole.nfe == pytest.approx(sum(part.nfe for part in parts) / 6)
    assert max(part.rounds for part in parts) <= whole.rounds <= 24


def test_samples_that_change_places_take_their_windows_along():
    rule, order, swapped = paradigms(5, 0.3, 0.7), torch.tensor([2, 0, 1]), False
    x = torch.randn(3, 1, 1, 1, dtype=F64, generator=stream(0, "noise"))
    cond = torch.ones(3, 1, dtype=torch.int64)

    def swap(_field, state, node):
        nonlocal swapped
        swapped = swapped or node == 4
        return state.take(order) if node == 4 else state

    def draw(node, x):
        noise = drawn(3)(node, x)
        return noise[order] if swapped else noise

    grid = build(LINEAR, uniform(10))
    plain = drive(Field(Prompted(LAW, cond), grid, x), x, rule, rng=drawn(3)).x0
    made = drive(Field(Prompted(LAW, cond), grid, x), x, rule, rng=draw, steer=swap).x0
    torch.testing.assert_close(made, plain[order])


def test_noise_of_a_generator_is_drawn_once_a_node():
    x = torch.randn(4, 1, 1, 1, dtype=F64, generator=stream(0, "noise"))
    network, grid = Prompted(LAW, torch.zeros(4, 1, dtype=torch.int64)), build(LINEAR, uniform(7))
    ours, theirs = (
        drive(Field(network, grid, x), x, rule, rng=stream(5, "draws")).x0
        for rule in (paradigms(4, 0.0, 1.0), ddim(1.0))
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_guided_calls_are_two_passes_and_one_round():
    made = run(paradigms(4, 0.1), 8, guidance=2.0)
    assert made.cost == 2 * made.nfe
    assert made.rounds <= 8


def test_other_rules_have_as_many_rounds_as_calls():
    assert run(rule_of({"name": "heun"}), 4).rounds == 7
    assert run(ddim(0.0), 5).rounds == 5


def test_what_needs_given_calls_refuses_it():
    spec = even(6, rule="paradigms", window=4, tolerance=0.1, noise_level=0.0)
    with pytest.raises(
        ValueError, match="a saved pipeline: rule paradigms calls the network as often as a sample needs"
    ):
        program(spec)
    with pytest.raises(ValueError, match="roll-outs: rule paradigms"):
        rolled_out(lambda x, _t, _c: x, torch.zeros(2, 1), (1.0, 0.5), torch.zeros(2, 1), rule=paradigms())
    assert calls(spec) == 4 + 4 + 4 + 3 + 2 + 1
