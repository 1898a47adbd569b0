"""BDIA: undone exactly, Euler's rule without symmetry, and its order; errors in test_golden."""

import pytest
import torch

from stages.core.path import LINEAR
from stages.samplers import rule_of, sample
from stages.samplers.bdia import undone
from stages.samplers.field import Field
from stages.samplers.grid import build
from stages.samplers.schedules import uniform
from tests.samplers.rigs import F64, OF_PATHS, START, gaussian, mixture, order


def bdia(gamma):
    return rule_of({"name": "bdia", "gamma": gamma})


@OF_PATHS
@pytest.mark.parametrize(("gamma", "expected"), [(1.0, 2), (0.5, 1)])
def test_its_order(path, gamma, expected):
    assert order(bdia(gamma), path, exact=1) == pytest.approx(expected, abs=0.15)


def test_without_what_was_before_it_is_eulers():
    found, expected = (sample(mixture(LINEAR), START, uniform(7), rule).x0 for rule in (bdia(0.0), "euler"))
    torch.testing.assert_close(found, expected)


def wild(x, t):
    """Nothing that a flow's velocity would be."""
    return torch.sin(9 * x + 5 * t.reshape(-1)) + x.roll(1) ** 2 / 9


@pytest.mark.parametrize(("gamma", "within"), [(1.0, 1e-9), (0.9, 1e-6)])
@pytest.mark.parametrize("velocity", [wild, mixture(LINEAR)])
def test_from_its_last_two_states_it_is_undone_whatever_the_network(velocity, gamma, within):
    times = uniform(20)
    made = sample(velocity, START, times, bdia(gamma), keep=(19, 20, 1))
    field = Field(velocity, build(LINEAR, times), START)
    again, second = undone(field, made.states[1], made.states[0], gamma)
    torch.testing.assert_close(again, START, atol=within, rtol=0)
    torch.testing.assert_close(second, made.states[2], atol=within, rtol=0)
    assert field.nfe == 19


def test_its_second_step_by_hand():
    velocity, times = gaussian(LINEAR, 0.7, 0.4), torch.tensor([1.0, 0.6, 0.25], dtype=F64)
    first = START - 0.4 * velocity(START, torch.ones(41))
    v = velocity(first, torch.full((41,), 0.6))
    second = 0.8 * (START - (first + 0.4 * v)) + first - 0.35 * v
    torch.testing.assert_close(sample(velocity, START, times, bdia(0.8)).x0, second)
