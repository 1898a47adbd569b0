"""Batches of rows in parts: each row once an epoch, any iteration by itself, each part read no oftener than needed."""

import threading

import pytest
import torch

from stages.training.walk import Walk
from tests.waiting import PATIENCE_S

PARTS = [7, 5, 6, 1, 6]


class Store:
    """Parts of consecutive numbers, and what was asked of them."""

    def __init__(self, rows=PARTS):
        self.rows, self.asked = rows, []

    def read(self, number):
        self.asked.append(number)
        first = sum(self.rows[:number])
        return {"n": torch.arange(first, first + self.rows[number]), "x": torch.full((self.rows[number], 2), number)}


def walk(store, buffer=12, batch_size=4, seed=0):
    return Walk(store.rows, store.read, buffer=buffer, batch_size=batch_size, seed=seed)


@pytest.mark.parametrize("buffer", [1, 7, 12, 25, 1000])
@pytest.mark.parametrize("batch_size", [1, 4, 25, 60])
def test_an_epoch_has_each_row_once_with_all_that_belongs_to_it(buffer, batch_size):
    made = walk(Store(), buffer, batch_size)
    batches = [made(i) for i in range(-(-3 * 25 // batch_size))]
    assert all(len(batch["n"]) == batch_size for batch in batches)
    drawn = torch.cat([batch["n"] for batch in batches])[:75].reshape(3, 25)
    for epoch in drawn:
        assert epoch.sort().values.tolist() == list(range(25))
    assert drawn.unique(dim=0).shape == (3, 25), "every epoch has an order of its own"
    owner = torch.repeat_interleave(torch.arange(5), torch.tensor(PARTS))
    for batch in batches:
        assert torch.equal(batch["x"], owner[batch["n"]][:, None].expand(-1, 2))


@pytest.mark.parametrize("buffer", [1, 12, 1000])
def test_an_iteration_does_not_depend_on_those_before_it(buffer):
    whole = walk(Store(), buffer)
    expected = [whole(i)["n"] for i in range(30)]
    for i in (29, 13, 0, 14, 7):
        assert torch.equal(walk(Store(), buffer)(i)["n"], expected[i]), "as a resumed run asks"
    again = walk(Store(), buffer)
    assert all(torch.equal(again(i)["n"], expected[i]) for i in reversed(range(30)))
    assert not torch.equal(walk(Store(), buffer, seed=1)(0)["n"], expected[0])


def test_a_part_is_read_once_an_epoch_and_never_if_all_are_held():
    store = Store()
    made = walk(store, buffer=7, batch_size=5)
    for i in range(5):
        made(i)
    made._reader.shutdown()
    assert sorted(store.asked[:5]) == list(range(5))
    assert len(store.asked) <= 5 + 2, "the next epoch's first parts are on their way, and nothing twice"
    store = Store()
    made = walk(store, buffer=25)
    for i in range(50):
        made(i)
    assert sorted(store.asked) == list(range(5))


def test_the_next_parts_are_read_while_the_present_ones_are_used():
    store, arrived = Store([4] * 6), threading.Event()
    plain = store.read

    def read(number):
        found = plain(number)
        if len(store.asked) == 4:
            arrived.set()
        return found

    store.read = read
    walk(store, buffer=8)(0)
    assert arrived.wait(PATIENCE_S), "two parts for the batch, and two after them"


def test_rows_of_a_batch_are_drawn_from_all_that_is_held():
    """With all rows held, the first batch of many seeds has every row equally often."""
    counts = torch.zeros(25)
    for seed in range(500):
        counts[walk(Store(), buffer=25, batch_size=5, seed=seed)(0)["n"]] += 1
    # Each count is binomial(500, 1/5): 100 with deviation 9.
    assert counts.sub(100).abs().max() < 5 * 9


def test_a_part_that_cannot_be_read_is_told():
    def read(number):
        raise ValueError(f"part {number} is damaged")

    made = Walk([3, 3], read, buffer=3, batch_size=2, seed=0)
    with pytest.raises(ValueError, match="is damaged"):
        made(0)
