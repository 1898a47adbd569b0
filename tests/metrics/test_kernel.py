"""The kernel distance against the double sum that defines it, and its mean under equal laws."""

import pytest
import torch

from stages.metrics.kernel import mmd2


def test_it_is_the_double_sum_without_the_diagonal():
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(5, 3, generator=rng).double(), torch.randn(4, 3, generator=rng).double()

    def kernel(a, b):
        return float(a @ b / 3 + 1) ** 2

    within = [sum(kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j) for z in (x, y)]
    across = sum(kernel(a, b) for a in x for b in y)
    assert mmd2(x, y, 2) == pytest.approx(within[0] / 20 + within[1] / 12 - 2 * across / 20)


def test_equal_laws_give_zero_on_average_and_others_more():
    rng = torch.Generator().manual_seed(1)
    found = torch.tensor(
        [mmd2(*torch.randn(2, 50, 4, generator=rng).double(), degree=3) for _ in range(200)], dtype=torch.float64
    )
    assert abs(found.mean()) < 4 * found.std() / 200**0.5
    assert mmd2(torch.randn(50, 4, generator=rng).double(), 1 + torch.randn(50, 4, generator=rng).double(), 3) > 10 * (
        found.std()
    )


def test_a_single_sample_is_refused():
    with pytest.raises(ValueError, match="needs two samples on each side"):
        mmd2(torch.zeros(1, 2), torch.zeros(5, 2), 3)
