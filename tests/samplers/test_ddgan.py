"""Steps from the posterior with noise of the network's own: which noise is whose, and what law the steps have."""

import pytest
import torch
from torch import Tensor

from stages.core.path import VP_COSINE, mix, transition
from stages.core.rng import stream
from stages.core.spec import even
from stages.samplers import sample
from stages.samplers.program import program

F64 = torch.float64


def test_every_call_has_noise_of_its_own_and_every_step_but_the_last_another() -> None:
    drawn, told = [], []

    def draw(node: int, x: Tensor) -> Tensor:
        drawn.append(node)
        return torch.full_like(x, float(node))

    def velocity(x: Tensor, t: Tensor, *, z: Tensor) -> Tensor:
        told.append(z[0, 0].item())
        return torch.zeros_like(x)

    sample(velocity, torch.ones(1, 1, dtype=F64), even(3).times, "ddgan", rng=draw)
    assert told == [4, 5, 6], "beyond the last node"
    assert drawn == [4, 1, 5, 2, 6]
    with pytest.raises(ValueError, match="sampler rule 'ddgan' draws noise"):
        sample(velocity, torch.ones(1, 1, dtype=F64), even(3).times, "ddgan")
    with pytest.raises(ValueError, match="steps along the linear path, not along vp_cosine"):
        sample(velocity, torch.ones(1, 1, dtype=F64), [0.8, 0.4, 0.1], "ddgan", path=VP_COSINE, rng=draw)


def test_with_the_true_data_every_state_has_the_law_of_data_with_noise() -> None:
    """Jointly with the state before: x_s given x_t and x0 is what noising x_s further left open."""
    n, x0 = 200_000, 0.8
    ends = {}
    noise = torch.randn(n, 1, dtype=F64, generator=stream(0, "noise"))
    exact = lambda x, t, z: (x - x0) / t[:, None]  # noqa: E731
    run = sample(exact, noise, even(4).times, "ddgan", rng=stream(1, "draws"), keep=(1, 2, 3, 4))
    for node, s in ((1, 0.75), (2, 0.5), (3, 0.25)):
        state = run.states[node - 1].flatten()
        assert state.mean().item() == pytest.approx((1 - s) * x0, abs=5e-3)
        assert state.std().item() == pytest.approx(s, rel=1e-2)
        ends[s] = state
    torch.testing.assert_close(run.x0, torch.full_like(run.x0, x0))
    clean = torch.full((n, 1), x0, dtype=F64)
    low = mix(clean, noise, torch.full((n,), 0.5, dtype=F64))
    times = [torch.full((n,), time, dtype=F64) for time in (0.5, 0.75)]
    high, _, _ = transition(low, *times, torch.randn(n, 1, dtype=F64, generator=stream(2, "n")))
    joint = torch.cov(torch.stack([low.flatten(), high.flatten()]))
    torch.testing.assert_close(torch.cov(torch.stack([ends[0.5], ends[0.75]])), joint, rtol=0.02, atol=2e-3)


def test_its_program_says_which_value_is_the_noise() -> None:
    assert program(even(1, rule="ddgan")) == [["noise"], ["varied", 0, 1, 1.0], ["add", 0, 2, -1.0]]
