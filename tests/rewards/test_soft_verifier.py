"""The verifier's relaxation: log-probabilities that agree with its verdicts and have a gradient by the image."""

import pytest
import torch

from stages import rewards
from stages.core.prompts import Prompt
from stages.io.dataset import Dataset
from stages.models.scenes import JUDGED
from stages.models.verifier import between, load_verifier
from stages.rewards import Given
from tests.cells.rigs import ATTRIBUTES, make_inputs

EDGES = torch.tensor([1.0, 3.0], dtype=torch.float64)


def test_a_softened_bin_is_logistic_noise_between_its_edges() -> None:
    measured, scale = torch.linspace(-2, 6, 50, dtype=torch.float64), 0.1 * 2
    below = [torch.sigmoid((edge - measured) / scale) for edge in EDGES]
    expected = [below[0], below[1] - below[0], 1 - below[1]]
    for place, share in enumerate(expected):
        found = between(measured, EDGES, torch.full((50,), place), 0.1)
        torch.testing.assert_close(found.exp(), share, rtol=1e-9, atol=1e-12)


def test_far_from_a_bin_its_gradient_still_points_there() -> None:
    measured = torch.tensor([-40.0, 60.0], dtype=torch.float64, requires_grad=True)
    found = between(measured, EDGES, torch.tensor([1, 1]), 0.1)
    assert found.isfinite().all()
    (slope,) = torch.autograd.grad(found.sum(), measured)
    assert slope.tolist() == pytest.approx([5.0, -5.0])  # 1 / scale
    with_ends = between(measured, EDGES, torch.tensor([0, 2]), 0.1)
    assert torch.autograd.grad(with_ends.sum(), measured)[0].isfinite().all()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs") / "data"
    make_inputs(root)
    return root


def digits(root) -> tuple[torch.Tensor, list[Prompt]]:
    data = Dataset.load(root / "dataset")
    return data.test_images.clone(), [data.prompts[place] for place in data.test_prompts.flip(0).tolist()]


def soft(root, attributes, softness=0.1):
    section = {"it": {"kind": "soft_verifier", "weight": 1.0, "attributes": attributes, "softness": softness}}
    return rewards.weighted(rewards.terms(section, "r"), Given(root / "verifier", "cpu"))


def test_hard_edges_give_the_verdicts_on_what_is_measured(root) -> None:
    images, prompts = digits(root)
    judge = load_verifier(root / "verifier")
    verdicts = judge.judge(images, prompts)[:, 1:]
    found = judge.log_likelihood(images, prompts, 1e-6)[:, 1:].exp()
    assert torch.equal(found > 0.5, verdicts)
    assert verdicts.any()
    assert not verdicts.all()


def test_of_the_digit_it_is_the_classifiers_log_probability(root) -> None:
    images, prompts = digits(root)
    judge = load_verifier(root / "verifier")
    logs = judge.classifier(images).log_softmax(dim=1)
    wanted = [judge.values["digit"].index(prompt.facts["digit"]) for prompt in prompts]
    torch.testing.assert_close(soft(root, {"digit": 1.0})(images, prompts), logs[torch.arange(len(images)), wanted])


def test_attributes_add_up_and_all_of_them_are_the_sum(root) -> None:
    images, prompts = digits(root)
    parts = [soft(root, {name: 1.0})(images, prompts) for name in ATTRIBUTES]
    for whole in ("all", "each"):
        torch.testing.assert_close(soft(root, {whole: 1.0})(images, prompts), sum(parts))
    torch.testing.assert_close(soft(root, {"slant": 2.0})(images, prompts), 2 * parts[2])


def test_its_gradient_raises_it_and_a_hard_reward_beside_it_ends_that(root) -> None:
    images, prompts = digits(root)
    images.requires_grad_()
    reward = soft(root, {"each": 1.0}, 0.3)
    found = reward(images, prompts)
    (slope,) = torch.autograd.grad(found.sum(), images)
    assert (reward(images + 1e-4 * slope.sign(), prompts) > found).all()
    hard = {"kind": "verifier", "weight": 1.0, "attributes": {"each": 1.0}}
    both = {
        "soft": {"kind": "soft_verifier", "weight": 1.0, "attributes": {"each": 1.0}, "softness": 0.1},
        "hard": hard,
    }
    terms = rewards.terms(both, "r")
    assert [term.name for term in rewards.rigid(terms)] == ["hard"]
    assert not rewards.weighted(terms, Given(root / "verifier", "cpu"))(images, prompts).requires_grad


def test_a_verifier_of_scenes_is_refused(root) -> None:
    section = {"kind": "soft_verifier", "weight": 1.0, "attributes": {"each": 1.0}, "softness": 0.1}
    with pytest.raises(ValueError, match=r"r\.it\.kind=soft_verifier: the verifier of scenes has no likelihoods"):
        rewards.expect(rewards.terms({"it": section}, "r"), JUDGED)
