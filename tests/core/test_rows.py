"""Rows that several answer come back in their order."""

import torch
from torch import Tensor

from stages.core.rows import routed


def test_each_row_is_answered_by_its_own_and_who_has_none_is_not_called() -> None:
    x, mask = torch.arange(5.0), torch.tensor([False, True, True, False, True])

    def refused(_rows: Tensor) -> Tensor:
        raise AssertionError("it has no row")

    found = routed([(lambda rows: 10 * x[rows], mask), (lambda rows: -x[rows], ~mask), (refused, mask & ~mask)])
    assert found.tolist() == [0, 10, 20, -3, 40]
