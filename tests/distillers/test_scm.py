"""Continuous-time consistency on Gaussians: the method sheet's numbers are for data of std .4 in units of sd = .5."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor, nn

from stages.core import trigflow
from stages.core.config import check
from stages.core.derivative import Difference, Forward, along
from stages.core.path import expand
from stages.core.rng import fork, stream
from stages.distillers import dmd2, scm
from tests.training.gaussian import (
    AffineStudent,
    GaussianAverage,
    GaussianVelocity,
    LogRatio,
    Pixels,
    slopes,
    tokens,
    world,
)
from tests.training.tiny import TinyHead, TinyNet

NONE = scm.Matching(weight=0.0, start=0.0, fake_updates=4, t_min=0.02, t_max=0.98, fake_lr=1e-3)
NOBODY = scm.Adversarial(
    weight=0.0, gan="hinge", head_updates=2, noise_share=0.5, misaligned=0.0, time_mean=-0.6, time_std=1.0, head_lr=1e-3
)
CONFIG = scm.Config(
    matching=NONE, adversarial=NOBODY,
    method="scm", nfe=2, velocity="teacher", guidance=1.0, time_mean=0.0, time_std=1.0, tangent_warmup=0.0,
    tangent_floor=0.1, derivative=Forward(name="jvp"), student_lr=1e-3, betas=(0.9, 0.99),
)  # fmt: skip
F64 = torch.float64
SD = 0.5
MEAN, STD = 0.7 / SD, 0.4 / SD
X, A = torch.full((1, 1, 1, 1), 0.9 / SD, dtype=F64), torch.full((1,), 0.8, dtype=F64)


class FlowMap(nn.Module):
    """The velocity of the exact consistency function: on average from t down to data."""

    sample_shape = (1, 1, 1)

    def __init__(self, mean: float, std: float) -> None:
        super().__init__()
        self.average = GaussianAverage(mean, std)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.average(x, t, cond, torch.zeros_like(t))


def pieces(student: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """F, dx/da and dF at the point."""
    with torch.no_grad():
        f, moving = (trigflow.speed(net, X, A, tokens(1)) for net in (student, GaussianVelocity(MEAN, STD)))
    weight = A.cos() * A.sin()
    point, direction = (X, A), (expand(weight, X) * moving, weight)
    df = along(lambda x, a: trigflow.speed(student, x, a, tokens(1)), point, direction, CONFIG.derivative, (A, A))
    return f, moving, df


def test_a_flow_is_trigflow_by_a_change_of_variables() -> None:
    t = A.sin() / (A.sin() + A.cos())
    assert t.item() == pytest.approx(0.507301, abs=1e-6)
    assert trigflow.angle(t).item() == pytest.approx(0.8)
    f, _, _ = pieces(GaussianVelocity(MEAN, STD))
    assert f.item() == pytest.approx(-0.824516, abs=1e-6)
    exact, _, _ = pieces(FlowMap(MEAN, STD))
    assert exact.item() == pytest.approx(-1.215726, abs=1e-6)
    assert SD * trigflow.data(X, exact, A).item() == pytest.approx(1.063090, abs=1e-6)
    x = X / (A.sin() + A.cos())
    end = x - t * FlowMap(MEAN, STD)(x, t, tokens(1))
    torch.testing.assert_close(trigflow.data(X, exact, A), end)
    assert x.item() == pytest.approx(1.272928, abs=1e-6)
    v = GaussianVelocity(MEAN, STD)(x, t, tokens(1))
    torch.testing.assert_close((f - expand(1 - 2 * t, X) * X) * expand(A.sin() + A.cos(), X), v)


def test_tangents_at_the_golden_point() -> None:
    f, moving, df = pieces(FlowMap(MEAN, STD))
    assert abs(scm.tangent(X, A, f, moving, df, 1.0).item()) < 1e-12, "the exact map is at rest"
    f, moving, df = pieces(GaussianVelocity(MEAN, STD))
    assert SD * scm.tangent(X, A, f, moving, df, 1.0).item() == pytest.approx(-0.193645, abs=1e-6)
    assert scm.tangent(X, A, f, moving, df, 0.0).item() == 0, "and a student that begins as the teacher is, without r"


def test_the_tangent_is_cos_a_times_the_derivative_of_the_consistency_function() -> None:
    student, teacher = TinyNet(0).requires_grad_(False), TinyNet(1).requires_grad_(False)
    x = torch.randn(6, 1, 4, 4, dtype=F64, generator=stream(0, "x"))
    a, cond = torch.linspace(0.1, 1.5, 6, dtype=F64), tokens(6, 1)
    moving, weight = trigflow.speed(teacher, x, a, cond), a.cos() * a.sin()

    def answer(x: Tensor, a: Tensor) -> Tensor:
        return trigflow.speed(student, x, a, cond)

    df = along(answer, (x, a), (expand(weight, x) * moving, weight), CONFIG.derivative, (a, a))
    g = scm.tangent(x, a, answer(x, a), moving, df, 1.0)

    def slope(h: float) -> Tensor:
        """One DDIM step of the teacher and what the student then says, as discrete distillation has it."""
        before = expand(torch.full_like(a, h).cos(), x) * x - expand(torch.full_like(a, h).sin(), x) * moving
        ends = (trigflow.data(y, answer(y, b), b) for y, b in ((x, a), (before, a - h)))
        now, then = ends
        return expand(a.cos(), x) * (now - then) / torch.tensor(h).sin()

    near, far = ((slope(h) - g).abs().max().item() for h in (1e-4, 1e-3))
    assert near < 1e-3 * g.abs().max().item()
    assert far / near == pytest.approx(10, rel=0.1), "the discrete gradient tends to it"


def batch(n: int) -> dict[str, Tensor]:
    x0 = MEAN + STD * torch.randn(n, 1, 1, 1, dtype=F64, generator=stream(0, "x0"))
    return {"x0": x0, "cond": tokens(n)}


def test_the_exact_map_is_a_fixed_point_of_distillation_and_in_expectation_of_training() -> None:
    student = FlowMap(MEAN, STD)
    teacher, given = GaussianVelocity(MEAN, STD), batch(64)
    value, _ = scm.loss(world(student=student, teacher=teacher), given, stream(0, "l"), CONFIG)
    assert value.item() < 1e-20
    cfg, given = replace(CONFIG, velocity="data", tangent_floor=1e6), batch(200_000)  # no normalisation to speak of
    found = slopes(scm.loss(world(student=student, teacher=teacher), given, stream(0, "l"), cfg)[0], student)
    off = FlowMap(MEAN + 0.1, STD - 0.1)
    away = slopes(scm.loss(world(student=off, teacher=off), given, stream(0, "l"), cfg)[0], off)
    assert all(abs(found[name]) < 0.05 * abs(away[name]) for name in found)


def test_the_gradient_is_minus_two_g_through_f_alone() -> None:
    student, teacher, given = FlowMap(1.1, 0.6), GaussianVelocity(MEAN, STD), batch(50)
    value, _ = scm.loss(world(student=student, teacher=teacher), given, stream(0, "l"), CONFIG)
    found = slopes(value, student)

    speeds, tangents, speed, normalised = [], [], trigflow.speed, scm.normalised
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trigflow, "speed", lambda *given: speeds.append(speed(*given)) or speeds[-1])
        patch.setattr(scm, "normalised", lambda *given: tangents.append(normalised(*given)) or tangents[-1])
        scm.loss(world(student=student, teacher=teacher), given, stream(0, "l"), CONFIG)
    expected = slopes(-2 * (tangents[0] * speeds[0]).mean(), student)
    assert found == pytest.approx(expected, rel=1e-9)
    assert max(abs(each) for each in found.values()) > 1e-3


def test_a_tangent_is_normalised_over_its_sample() -> None:
    g = torch.tensor([[[[3.0, 4.0]]], [[[0.0, 0.0]]]], dtype=F64)
    assert scm.normalised(g, 0.1).flatten(1).norm(dim=1).tolist() == pytest.approx([5 / 5.1, 0.0])


def test_the_derivative_joins_with_the_budget() -> None:
    teacher = GaussianVelocity(MEAN, STD)
    cfg, nets = replace(CONFIG, tangent_warmup=0.5), world(student=GaussianVelocity(MEAN, STD), teacher=teacher)
    sizes = [
        float(scm.loss(replace(nets, progress=share), batch(50), stream(0, "l"), cfg)[1]["tangent"])
        for share in (0.0, 0.25, 0.5, 0.9)
    ]
    assert sizes[0] == 0
    assert sizes[1] == pytest.approx(sizes[2] / 2)
    assert sizes[2] == sizes[3]


def test_differences_give_nearly_the_same_gradient() -> None:
    student, teacher = TinyNet(0), TinyNet(1)
    x0 = torch.randn(8, 1, 4, 4, dtype=F64, generator=stream(0, "x0"))
    nets, given = world(student=student, teacher=teacher), {"x0": x0, "cond": tokens(8, 2)}
    ways = (CONFIG, replace(CONFIG, derivative=Difference(name="difference", step=1e-3)))
    exact, near = (
        torch.autograd.grad(scm.loss(nets, given, stream(0, "l"), cfg)[0], student.inner.weight)[0] for cfg in ways
    )
    assert (near - exact).norm() < 1e-5 * exact.norm()


MATCHED = replace(CONFIG, matching=replace(NONE, weight=0.3, start=0.5))


def test_rcm_adds_the_gradient_of_distribution_matching() -> None:
    """Of the weighed sum of scm's loss and of dmd2's without a GAN, each with the random numbers that it is given."""
    teacher, student, fake = (TinyNet(seed) for seed in range(3))
    x0 = torch.randn(8, 1, 4, 4, dtype=F64, generator=stream(0, "x0"))
    nets, given = world(student=student, teacher=teacher, fake=fake), {"x0": x0, "cond": tokens(8, 2)}
    weights = list(student.parameters())
    cfg = dmd2.Config(
        guidance_levels="shared", fake_follows=0.0, method="dmd2", nfe=2, guidance=1.0, critic_updates=1,
        gan_weight=0.0, t_min=0.02, t_max=0.98, student_lr=1e-4, fake_lr=1e-4, head_lr=1e-4,
    )  # fmt: skip
    late = replace(nets, progress=0.5)
    [path] = fork(stream(0, "l"), "consistency")
    parts = scm.consistency(late, given, path, MATCHED)[0], dmd2.student_loss(nets, given, stream(0, "l"), cfg)[0]
    expected = torch.autograd.grad(parts[0] + 0.3 * parts[1], weights)
    found = torch.autograd.grad(scm.loss(late, given, stream(0, "l"), MATCHED)[0], weights)
    torch.testing.assert_close(found, expected)


def test_rcm_is_scm_until_its_matching_starts() -> None:
    nets = world(student=TinyNet(0), teacher=TinyNet(1))
    given = {"x0": torch.randn(8, 1, 4, 4, dtype=F64, generator=stream(0, "x0")), "cond": tokens(8, 2)}
    early, plain = (scm.loss(nets, given, stream(0, "l"), cfg)[0] for cfg in (MATCHED, CONFIG))
    assert torch.equal(early, plain)
    fake, student = scm.phases(MATCHED)
    assert (fake.start, fake.repeats, student.start) == (0.5, 4, 0.0)
    assert list(scm.roles(CONFIG)) == ["student"]


JUDGED = replace(CONFIG, adversarial=replace(NOBODY, weight=0.5))
REAL, MADE, LEVEL = (0.3, 1.2), (-0.5, 1.2), math.log(4 / 3)
"""Laws of data and of samples, and the level of noise at which the sheet's numbers are."""


def test_an_optimal_head_pulls_as_the_reverse_kl() -> None:
    """The hinge's is alpha (s_made - s_real) itself: alpha^2 (b - m) / V on average, which the sheet has."""
    how = replace(JUDGED.adversarial, noise_share=1.0, time_mean=LEVEL, time_std=1e-9)
    student = AffineStudent(*MADE[::-1])
    nets = world(student=student, teacher=Pixels(*REAL), head=LogRatio(REAL, MADE))
    given = {"x0": torch.zeros(400_000, 1, 1, 1, dtype=F64), "cond": tokens(400_000)}
    for gan, share in (("hinge", 1.0), ("log", 0.523717)):
        cfg = replace(JUDGED, adversarial=replace(how, gan=gan))
        value, _ = scm.pleasing(nets, given, stream(0, "l"), cfg)
        assert slopes(value, student)["shift"] == pytest.approx(-0.441989 * 0.36 / 0.64 * share, abs=1e-3)


def test_sana_sprint_adds_the_gradient_of_the_heads_opinion() -> None:
    teacher, student, head = TinyNet(0), TinyNet(1), TinyHead(2)
    x0 = torch.randn(8, 1, 4, 4, dtype=F64, generator=stream(0, "x0"))
    nets, given = world(student=student, teacher=teacher, head=head), {"x0": x0, "cond": tokens(8, 2)}
    weights = list(student.parameters())
    path, judge = fork(stream(0, "l"), "consistency", "judge")
    parts = scm.consistency(nets, given, path, JUDGED)[0], scm.pleasing(nets, given, judge, JUDGED)[0]
    expected = torch.autograd.grad(parts[0] + 0.5 * parts[1], weights)
    value, _ = scm.loss(nets, given, stream(0, "l"), JUDGED)
    torch.testing.assert_close(torch.autograd.grad(value, weights, retain_graph=True), expected)
    assert all(g is None for g in torch.autograd.grad(value, list(head.parameters()), allow_unused=True))
    judged, _ = scm.head_loss(nets, given, stream(0, "h"), JUDGED)
    assert all(g is None for g in torch.autograd.grad(judged, weights, allow_unused=True, retain_graph=True))
    assert any(g.abs().sum() > 0 for g in torch.autograd.grad(judged, list(head.parameters())))


def test_samples_that_are_judged_are_made_of_noise_in_their_share() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Watched(GaussianVelocity):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            seen.append((x.flatten(), t))
            return super().forward(x, t, cond)

    cfg = replace(JUDGED, time_mean=0.7, time_std=0.2, adversarial=replace(NOBODY, noise_share=0.3))
    given = {"x0": torch.full((20_000, 1, 1, 1), 50.0, dtype=F64), "cond": tokens(20_000)}
    scm.denoised(world(student=Watched(0.0, 1.0)), given, stream(0, "l"), cfg)
    [(x, t)] = seen
    alone = t == 1
    assert alone.double().mean().item() == pytest.approx(0.3, abs=0.01)
    assert x[alone].mean().item() == pytest.approx(0, abs=0.05)
    assert (t / (1 - t))[~alone].log().mean().item() == pytest.approx(0.7, abs=0.01)
    torch.testing.assert_close(x[~alone], 50 * (1 - t[~alone]), atol=5, rtol=0)


def test_a_head_is_shown_data_under_other_prompts_too() -> None:
    class Asked(GaussianVelocity):
        """Its features are the prompt."""

        def features(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            return cond[:, :, None].to(x)

    class First(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return features[:, 0, 0]

    given = {"x0": torch.zeros(4, 1, 1, 1, dtype=F64), "cond": torch.tensor([[1], [1], [0], [3]])}
    nets = world(student=Asked(0.0, 1.0), teacher=Asked(0.0, 1.0), head=First())
    cfg = replace(JUDGED, adversarial=replace(NOBODY, misaligned=2.0))
    plain, more = (scm.head_loss(nets, given, stream(0, "l"), each)[0].item() for each in (JUDGED, cfg))
    assert plain == pytest.approx((2 + 2 + 1 + 4) / 4 + (0 + 0 + 1 + 0) / 4)
    assert more - plain == pytest.approx(2.0 * ((1 + 3) + 0 + (1 + 1) + (1 + 0)) / 4), "but where they are the same"


def test_without_a_weight_there_is_no_head() -> None:
    assert list(scm.roles(CONFIG)) == ["student"]
    assert [phase.name for phase in scm.phases(CONFIG)] == ["student"]
    both = replace(MATCHED, adversarial=JUDGED.adversarial)
    assert list(scm.roles(both)) == ["student", "fake", "head"]
    assert [(phase.name, phase.repeats) for phase in scm.phases(both)] == [("fake", 4), ("head", 2), ("student", 1)]


def test_the_derivative_of_attention_is_exact() -> None:
    """The closed form for one query, two keys: softmax(0, 1) of the values 0 and 1, and its derivative."""
    k = torch.tensor([[[0.0], [1.0]]], dtype=F64)
    attention = lambda q: nn.functional.scaled_dot_product_attention(q, k, k, scale=1.0)  # noqa: E731
    q = torch.ones(1, 1, 1, dtype=F64)
    assert attention(q).item() == pytest.approx(0.731059, abs=1e-6)
    tangent = along(attention, (q,), (torch.ones_like(q),), Forward(name="jvp"), (A, A))
    assert tangent.item() == pytest.approx(0.196612, abs=1e-6)


def test_data_guide_nobody() -> None:
    section = {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__}
    section |= {"velocity": "data", "guidance": 2.0, "derivative": {"name": "jvp"}, "matching": asdict(NONE)}
    section |= {"adversarial": asdict(NOBODY)}
    with pytest.raises(ValueError, match="guidance=2: data guide nobody; set it to 1, or velocity to teacher"):
        check(scm.Config, section, "arms.x")
