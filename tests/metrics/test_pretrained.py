"""Metrics on pretrained features: kernels and means against closed forms, features against their networks."""

import math

import pytest
import torch

from stages.core.frechet import frechet_distance
from stages.core.pictures import pictures
from stages.core.pretrained import Pretrained
from stages.core.prompts import Prompt
from stages.metrics.cmmd import mmd2
from stages.metrics.diversity import within
from stages.metrics.neighbours import neighbours
from stages.metrics.table import Sampled, chosen
from stages.models.features import BATCH, features
from tests.tiny_pretrained import save_clip, save_dinov2

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    save_clip(root / "clip")
    save_dinov2(root / "dinov2")
    return root


def images(count, seed=0):
    return torch.rand(count, 3, 20, 24, generator=torch.Generator().manual_seed(seed))


def of(root, kind):
    return features(kind, Pretrained(kind, root / kind, kind), "cpu")


def test_the_kernel_of_cmmd_is_the_double_sum_without_the_diagonal():
    x, y = (torch.randn(n, 3, generator=torch.Generator().manual_seed(n)).double() for n in (5, 4))

    def kernel(a, b):
        return math.exp(-float((a - b).square().sum()) / (2 * 1.5**2))

    inside = [sum(kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j) for z in (x, y)]
    across = sum(kernel(a, b) for a in x for b in y)
    assert mmd2(x, y, 1.5) == pytest.approx(inside[0] / 20 + inside[1] / 12 - 2 * across / 20)


def test_two_gaussians_are_as_far_apart_as_their_closed_form_says():
    rng, dim, sigma = torch.Generator().manual_seed(0), 4, 2.0
    x, y = torch.randn(4000, dim, generator=rng), 0.5 * torch.randn(4000, dim, generator=rng) + 1

    def mean_kernel(variance, gap2):
        return (sigma**2 / (sigma**2 + variance)) ** (dim / 2) * math.exp(-gap2 / (2 * (sigma**2 + variance)))

    expected = mean_kernel(2, 0) + mean_kernel(0.5, 0) - 2 * mean_kernel(1.25, dim)
    assert mmd2(x, y, sigma) == pytest.approx(expected, rel=0.05)
    assert abs(mmd2(x[:2000], x[2000:], sigma)) < 0.01 * expected


def test_a_single_sample_has_no_discrepancy():
    with pytest.raises(ValueError, match="needs two samples on each side"):
        mmd2(torch.zeros(1, 2), torch.zeros(5, 2), 1.0)


def test_dinov2_is_its_class_token_after_the_last_norm(root):
    from transformers import BitImageProcessorPil, Dinov2Model

    some = images(3)
    pixels = BitImageProcessorPil.from_pretrained(root / "dinov2")(images=pictures(some), return_tensors="pt")
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(root / "dinov2").eval()(**pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(of(root, "dinov2")(some), expected)


def test_features_do_not_depend_on_what_is_seen_beside(root):
    some = images(BATCH + 3)
    for kind in ("clip", "dinov2"):
        torch.testing.assert_close(of(root, kind)(some)[-3:], of(root, kind)(some[-3:]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(of(root, "clip")(some).norm(dim=1), torch.ones(len(some)))


def test_metrics_are_those_of_the_features(root):
    made, real = images(40), images(30, seed=1)
    shown = Sampled(made, [Prompt("a")] * 40, real, None)
    clip, dinov2 = {"source": str(root / "clip")}, {"kind": "dinov2", "source": str(root / "dinov2")}
    sections = {
        "cmmd": {"kind": "cmmd", **clip, "sigma": 10.0},
        "fd": {"kind": "fd", "features": dinov2},
        "recall": {"kind": "manifold", "share": "recall", "neighbours": 3, "features": dinov2},
    }
    found = {name: (made := chosen(stated, name))[0].measure(made[1], shown) for name, stated in sections.items()}
    one, other = (of(root, "dinov2")(each) for each in (images(40), real))
    clips = [of(root, "clip")(each) for each in (images(40), real)]
    assert found == pytest.approx(
        {
            "cmmd": 1000 * mmd2(*clips, 10.0),
            "fd": frechet_distance(one, other),
            "recall": neighbours(other, one, k=3).recall,
        }
    )


def test_equal_samples_of_a_prompt_have_no_diversity_and_opposite_ones_the_most():
    axis = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, -2.0], [5.0, 5.0]])
    assert within(axis, ["a", "a", "b", "b", "c"]) == pytest.approx((0 + 2) / 2)
    assert within(axis[:3], ["a", "a", "a"]) == pytest.approx((0 + 1 + 1) / 3)
    assert within(axis, list("abcde")) is None


def test_a_clip_score_is_the_mean_of_a_hundred_cosines(root):
    from stages.rewards import Given, terms, weighted

    some, prompts = images(BATCH + 2), [Prompt(f"prompt {number}") for number in range(BATCH + 2)]
    stated = {"kind": "clip_score", "source": str(root / "clip")}
    metric, cfg = chosen(stated, "m")
    reward = weighted(terms({"it": {**stated, "weight": 1.0}}, "r"), Given(None, "cpu"))
    assert metric.measure(cfg, Sampled(some, prompts, some[:0], None)) == pytest.approx(
        reward(some, prompts).mean().item(), rel=1e-4
    )
