"""Noise is a function of (seed, name, index): chunks, streams and devices of work leave no trace."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core.rng import fork, normal_at, seeded, stream


@settings(max_examples=25)
@given(st.integers(0, 10**9), st.integers(0, 40), st.integers(1, 9))
def test_noise_of_a_sample_does_not_depend_on_its_chunk(start, offset, size):
    whole = normal_at(3, "noise", start, 50, (size,))
    part = normal_at(3, "noise", start + offset, 10, (size,))
    assert torch.equal(whole[offset : offset + 10], part)


def test_noise_is_standard_normal():
    x = normal_at(0, "n", 0, 40_000, (8,)).double()
    assert abs(x.mean()) < 0.01
    assert abs(x.var() - 1) < 0.01
    assert abs(x.pow(4).mean() - 3) < 0.1
    assert abs((x[:-1] * x[1:]).mean()) < 0.01, "neighbouring samples must be independent"


def test_seed_and_name_change_the_noise():
    base = normal_at(0, "a", 0, 4, (4,))
    assert not torch.equal(base, normal_at(1, "a", 0, 4, (4,)))
    assert not torch.equal(base, normal_at(0, "b", 0, 4, (4,)))


def test_streams_are_pure_functions():
    draws = [torch.rand(3, generator=stream(7, "x", step)) for step in (0, 1, 0)]
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


def test_drawing_more_from_one_fork_does_not_shift_another():
    first, second = fork(stream(0, "f"), "a", "b")
    torch.rand(100, generator=first)
    _, untouched = fork(stream(0, "f"), "a", "b")
    assert torch.equal(torch.rand(4, generator=second), torch.rand(4, generator=untouched))


def test_layers_are_drawn_as_torch_draws_them_from_a_seed_and_its_own_stream_goes_on():
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(4)
    with seeded(5):
        assert torch.equal(torch.randn(3), expected)
    after = torch.randn(3)
    torch.manual_seed(4)
    assert torch.equal(torch.randn(3), after)
