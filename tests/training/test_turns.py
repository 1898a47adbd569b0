"""Slices whose rewards others compute: prepared beside each other, to the bit what they are one after another."""

import threading
import time

import pytest
import torch

from stages.training.turns import Turns, waited
from tests.training import ranked
from tests.waiting import PATIENCE_S


class Elsewhere:
    """`ranked.reward`, of which no answer comes before all slices have asked."""

    elsewhere = True

    def __init__(self, slices):
        self._asked = threading.Barrier(slices)

    def __call__(self, images, prompts):
        self._asked.wait(PATIENCE_S)
        return ranked.reward(images, prompts)


def trained(reward, iterations=3):
    made = ranked.trainer("dgpo, 4 slices", reward=reward)
    metrics = [made.step(ranked.batch_at(i)) for i in range(iterations)]
    return torch.cat([p.flatten() for p in made.weights.nets["student"].parameters()]), metrics, made.cost


def test_slices_are_rolled_out_while_rewards_are_away_and_nothing_changes():
    alone, beside = trained(ranked.reward), trained(Elsewhere(4))
    assert torch.equal(alone[0], beside[0])
    assert alone[1:] == beside[1:]


def test_never_two_compute_at_once():
    turns, at_work, most = Turns(5), [], []
    reward = turns.waiting(lambda images, _prompts: (time.sleep(0.01), images)[1])

    def job(number):
        for _ in range(3):
            at_work.append(number)
            most.append(len(at_work))
            time.sleep(0.001)
            at_work.remove(number)
            reward(torch.zeros(1), [])
        return number

    assert turns.each([lambda number=number: job(number) for number in range(5)]) == list(range(5))
    assert len(most) == 15
    assert set(most) == {1}


def test_what_a_reward_raises_is_raised_and_ends_the_others():
    def broken(images, _prompts):
        raise ValueError("no verdict")

    broken.elsewhere = True
    made = ranked.trainer("dgpo, 4 slices", reward=broken)
    for _ in range(2):  # nobody holds the turn afterwards
        with pytest.raises(ValueError, match="no verdict"):
            made.step(ranked.batch_at(0))


def test_a_reward_that_is_here_is_called_as_it_is():
    assert waited(ranked.reward, 4) == (ranked.reward, None)
    assert waited(None, 4) == (None, None)
    away = Elsewhere(1)
    assert waited(away, 1) == (away, None), "there is nobody to let compute"
