"""The exact mixture against quadrature-free truths: golden numbers, a finite difference, and its own samples."""

import pytest
import torch

from stages.core.prompts import Prompt
from stages.core.rng import stream
from stages.core.spec import even
from stages.models import Student, load, save
from stages.models.mixture import GaussianMixture
from stages.models.space import Points
from stages.models.verifier import MixtureVerifier
from stages.samplers import sample

F64 = torch.float64


@pytest.fixture
def g2():
    """Weights (.3, .7), means (-1, .5), standard deviations (.2, .3)."""
    weights, means, stds = [0.3, 0.7], [[-1.0], [0.5]], [0.2, 0.3]
    return GaussianMixture(*(torch.tensor(values, dtype=F64) for values in (weights, means, stds)))


def whole(n):
    """The empty prompt."""
    return torch.zeros(n, 1, dtype=torch.int64)


def point(*values):
    return torch.tensor(values, dtype=F64).reshape(-1, 1, 1, 1)


def test_denoiser_golden_number(g2):
    found = g2.denoise(point(0.2), torch.tensor([0.5], dtype=F64), whole(1)).item()
    assert found == pytest.approx(0.280951, abs=1e-6)


def test_flow_map_is_the_quantile_map(g2):
    """In one dimension the ODE's coupling is monotone: T(e) = F^-1(Phi(e))."""
    noise, expected = point(-1.5, -0.6, 0.2, 1.1), point(-1.152628, -0.726678, 0.423174, 0.759184)
    times = torch.linspace(1, 0, 801, dtype=F64)
    found = sample(lambda x, t: g2(x, t, whole(len(x))), noise, times, "heun").x0
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_a_prompt_is_one_component(g2):
    """Component 1 alone is N(.5, .3^2): its velocity is the Gaussian one."""
    x, t, m, s = 0.9, 0.6, 0.5, 0.3
    area = (1 - t) ** 2 * s**2 + t**2
    expected = -m + (t - (1 - t) * s**2) / area * (x - (1 - t) * m)
    found = g2(point(x), torch.tensor([t], dtype=F64), torch.tensor([[2]])).item()
    assert found == pytest.approx(expected, abs=1e-9)


def test_velocity_is_finite_at_data(g2):
    x = point(-0.4, 0.3)
    torch.testing.assert_close(g2(x, torch.zeros(2, dtype=F64), whole(2)), -x)


def test_samples_have_the_mixtures_moments(g2):
    drawn = g2.sample(whole(40_000), stream(0, "mixture")).double()
    assert drawn.mean().item() == pytest.approx(0.05, abs=0.02)
    expected = 0.3 * (0.2**2 + 1) + 0.7 * (0.3**2 + 0.5**2) - 0.05**2
    assert drawn.var().item() == pytest.approx(expected, rel=0.02)


def test_a_row_is_the_prompt_that_the_table_says(g2, tmp_path):
    save(tmp_path, Student(g2, even(1), Points((1, 1, 1)), g2.encoder))
    other = load(tmp_path, ["component 1", "component 0"]).net
    assert other.component(torch.tensor([[0], [1], [2]])).tolist() == [2, 1, 0], "2 is the whole mixture"
    with pytest.raises(ValueError, match=r"'component 9': the model does not know it; it knows: component 0"):
        load(tmp_path, ["component 9"])


def test_verifier_names_the_component(g2):
    asked = [Prompt("", {"component": component}) for component in ("0", "1", "0")]
    assert MixtureVerifier(g2).judge(point(-1.0, 0.5, 0.6), asked).flatten().tolist() == [True, True, False]


def test_it_round_trips_through_a_folder(g2, tmp_path):
    save(tmp_path, Student(g2, even(32), Points((1, 1, 1)), g2.encoder))
    again = load(tmp_path, [])
    assert again.spec == even(32)
    assert torch.equal(again.net.means, g2.means)
