"""NitroFusion: which heads judge what, the pull of heads that are right, and a pool some of which begins anew."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from stages.core.config import check
from stages.core.path import expand, mix, score_from_velocity
from stages.core.rng import normal_like, stream
from stages.distillers import nitrofusion
from stages.models.discriminator import Pool
from stages.models.space import Points
from stages.training import checkpoint
from stages.training.budget import Budget
from stages.training.loop import Trainer
from stages.training.roles import Start, heads_of
from tests.training.gaussian import GaussianVelocity, LogRatio, Pixels, tokens, world
from tests.training.tiny import TinyNet

CONFIG = nitrofusion.Config(
    method="nitrofusion", gan="log", levels=(0.2, 0.6), heads=3, asked=2, renewed=0.0, student_lr=1e-3, head_lr=1e-3
)
REAL, MADE = (0.3, 1.2), (-0.5, 0.7)
BUDGET = Budget(iterations=9, ema=0.9, clip=1.0, warmup=0, final_lr=1.0, precision="float32", slices=1)
SPACE = Points((1, 4, 4), torch.float64)


def batch(n: int, which: int = 1) -> dict[str, Tensor]:
    """Pairs of Gaussians; points of one number."""
    noise, x0 = (torch.randn(n, 1, 1, 1, dtype=torch.float64, generator=stream(0, name)) for name in ("e", "x"))
    return {"noise": noise, "x0": REAL[0] + REAL[1] * x0, "cond": tokens(n, which)}


class Noted(nn.Module):
    """A pool of heads that say the first feature times the weight of their number, and note who was asked for what."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.linspace(1, 2, count, dtype=torch.float64))
        self.asked: list[tuple[int, Tensor]] = []

    def forward(self, features: Tensor, which: Tensor) -> Tensor:
        self.asked.append((int(which), features.detach()))
        return self.weights[which] * features[..., 0].mean(dim=-1)


class Eyes(GaussianVelocity):
    """Sees each of 16 pixels as a place, with its time and its prompt."""

    def features(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        flat = x.flatten(1)
        told = [flat, t[:, None].expand_as(flat), cond.double().expand_as(flat)]
        return torch.stack(told, dim=2)


def prepared(cfg: nitrofusion.Config, given: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    return dict(nitrofusion.prepare(world(), given, stream(seed, "p"), cfg))


def test_heads_are_of_one_level_and_of_each_task_and_every_one_comes_up() -> None:
    met: dict[float, set[tuple[int, int]]] = {}
    for seed in range(200):
        found = prepared(CONFIG, batch(2), seed)
        level, heads = float(found["level"]), found["heads"]
        assert heads.shape == (3, 2)
        met.setdefault(level, set()).update((task, int(head)) for task in range(3) for head in heads[task])
        assert all(len(set(row)) == 2 for row in heads.tolist()), "no head twice"
    assert met == {
        level: {(task, 9 * place + 3 * task + head) for task in range(3) for head in range(3)}
        for place, level in enumerate(CONFIG.levels)
    }


def test_tasks_see_whole_samples_places_and_places_without_the_prompt() -> None:
    pool, n = Noted(18), 5
    x0 = torch.randn(n, 1, 4, 4, dtype=torch.float64, generator=stream(0, "x"))
    given = prepared(CONFIG, {"x0": x0, "noise": x0.flip(0), "cond": tokens(n, 3)}, 0)
    nets = world(student=Told(x0 + 1), teacher=Eyes(0.0, 1.0, 4), heads=pool)
    nitrofusion.head_loss(nets, given, stream(0, "h"), CONFIG)
    eps = normal_like(x0, stream(0, "h"))
    assert [head for head, _ in pool.asked] == [int(h) for h in given["heads"].flatten() for _ in range(2)]
    for task, (made, real) in enumerate((pool.asked[0:2], pool.asked[4:6], pool.asked[8:10])):
        for (_, shown), samples in ((made, x0 + 1), (real, x0)):
            x_t = mix(samples, eps, given["level"].expand(n))
            assert shown.shape == ((n, 16, 3) if task == 0 else (n, 16, 1, 3))
            torch.testing.assert_close(shown[..., 0].flatten(), x_t.flatten())
            assert (shown[..., 1] == given["level"]).all()
            assert (shown[..., 2] == (0 if task == 2 else 3)).all()


class Told(nn.Module):
    """A student whose samples are what it is told, and which is asked at noise alone."""

    sample_shape = (1, 1, 1)

    def __init__(self, samples: Tensor) -> None:
        super().__init__()
        self.samples = nn.Parameter(samples)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        assert (t == 1).all()
        return x - self.samples


class All(nn.Module):
    """A pool of one head, whichever is asked."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor, which: Tensor) -> Tensor:
        assert which.dim() == 0
        return self.head(features)


def test_optimal_heads_pull_as_the_softened_reverse_kl() -> None:
    """Where all heads are the optimal one it is LADD at one level: alpha (s_fake - s_real) / (1 + r) of each sample."""
    n, cfg = 200, replace(CONFIG, levels=(0.6,))
    student = Told(MADE[0] + MADE[1] * torch.randn(n, 1, 1, 1, dtype=torch.float64, generator=stream(1, "s")))
    given, head = prepared(cfg, batch(n), 0), LogRatio(REAL, MADE)
    nets = world(student=student, teacher=Pixels(*REAL), heads=All(head))
    value, found = nitrofusion.student_loss(nets, given, stream(0, "l"), cfg)
    slopes = torch.autograd.grad(value, student.samples)[0].flatten() * n
    t = torch.full((n,), 0.6, dtype=torch.float64)
    x = mix(student.samples.detach(), normal_like(given["x0"], stream(0, "l")), t)
    scores = [score_from_velocity(x, GaussianVelocity(*law)(x, t, tokens(n)), t).flatten() for law in (MADE, REAL)]
    logit = head(torch.stack([x.flatten(1), expand(t, x).flatten(1)], dim=2))
    torch.testing.assert_close(slopes, ((1 - t) * (scores[0] - scores[1]) / (1 + logit.exp())).detach())
    assert found["logit"].item() == pytest.approx(logit.mean().item())


@pytest.mark.parametrize("gan", ["log", "hinge"])
def test_losses_are_means_over_the_heads_that_were_drawn_and_each_side_learns_its_own(gan: Any) -> None:
    n, cfg = 50, replace(CONFIG, gan=gan)
    pool, student = Noted(18), Told(torch.randn(n, 1, 1, 1, dtype=torch.float64, generator=stream(2, "s")))
    given = prepared(cfg, batch(n), 0)
    nets = world(student=student, teacher=Pixels(*REAL), heads=pool)
    eps, t = normal_like(given["x0"], stream(0, "l")), given["level"].expand(n)
    made, real = (mix(x, eps, t).detach().flatten() for x in (student.samples, given["x0"]))
    loss = softplus if gan == "log" else lambda y: relu(1 + y)
    w = pool.weights.detach()[given["heads"].flatten()][:, None]
    value, _ = nitrofusion.head_loss(nets, given, stream(0, "l"), cfg)
    assert value.item() == pytest.approx((loss(w * made) + loss(-w * real)).mean().item(), rel=1e-9)
    value.backward()
    assert student.samples.grad is None
    moved = set(pool.weights.grad.nonzero().flatten().tolist())
    assert moved == set(given["heads"].flatten().tolist()), "a head that is not asked learns nothing"
    pool.weights.grad = None
    value, _ = nitrofusion.student_loss(nets, given, stream(0, "l"), cfg)
    expected = softplus(-w * made) if gan == "log" else -w * made
    assert value.item() == pytest.approx(expected.mean().item(), rel=1e-9)
    value.backward()
    assert pool.weights.grad is None
    assert student.samples.grad.abs().min() > 0


# The pool


def trained(cfg: nitrofusion.Config) -> Trainer:
    net = TinyNet(0)
    return Trainer(nitrofusion, cfg, BUDGET, Start(net, TinyNet(1), SPACE), seed=0, device="cpu")


def drawn(n: int = 6) -> dict[str, Tensor]:
    x0, noise = (torch.randn(n, 1, 4, 4, dtype=torch.float64, generator=stream(0, name)) for name in "xn")
    return {"x0": x0, "noise": noise, "cond": tokens(n, 1)}


@pytest.fixture(autouse=True)
def double() -> Any:
    """Heads as wide as the networks that they look at."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_a_pool_is_of_heads_that_begin_apart_and_again_alike() -> None:
    assert heads_of(nitrofusion.roles(CONFIG)) == ["heads"]
    pools = [trained(CONFIG).weights.nets["heads"] for _ in range(2)]
    assert all(isinstance(pool, Pool) and len(pool.heads) == 18 for pool in pools)
    first = [head.body[1].weight for head in pools[0].heads]
    assert all(not torch.equal(first[0], other) for other in first[1:])
    assert all(torch.equal(a, head.body[1].weight) for a, head in zip(first, pools[1].heads, strict=True))
    features = torch.randn(4, 2, 8, generator=stream(0, "f"))
    assert torch.equal(pools[0](features, torch.tensor(7)), pools[0].heads[7](features))


def test_heads_that_are_not_asked_stay_as_they_are() -> None:
    made = trained(CONFIG)
    before = [head.body[1].weight.clone() for head in made.weights.nets["heads"].heads]
    made.step(drawn())
    after = [head.body[1].weight for head in made.weights.nets["heads"].heads]
    assert sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) == 6


def test_what_never_begins_anew_is_a_power_of_the_iterations() -> None:
    made = trained(replace(CONFIG, levels=(0.5,), heads=200)).weights
    pool, share = made.nets["heads"], 0.05
    first = torch.stack([head.body[1].weight.clone() for head in pool.heads])
    for iteration in range(20):
        made.renew("heads", share, stream(0, "r", iteration))
    now = torch.stack([head.body[1].weight for head in pool.heads])
    same = (first == now).all(dim=(1, 2)).double().mean().item()
    assert same == pytest.approx(0.95**20, abs=0.07)


def test_a_head_that_begins_anew_is_as_any_at_the_start_and_its_optimiser_has_forgotten() -> None:
    made = trained(replace(CONFIG, renewed=0.9, levels=(0.5,), asked=3))
    made.step(drawn())
    pool, optimiser = made.weights.nets["heads"], made.optimisers["heads"]
    known = [all(p in optimiser.state for p in head.parameters()) for head in pool.heads]
    forgotten = [not any(p in optimiser.state for p in head.parameters()) for head in pool.heads]
    assert [not each for each in known] == forgotten
    assert sum(forgotten) == pytest.approx(8, abs=1)
    for head, is_new in zip(pool.heads, forgotten, strict=True):
        assert is_new == bool((head.body[1].bias.abs() <= 8**-0.5).all() and (head.body[0].weight == 1).all())
    for _ in range(3):
        metrics = made.step(drawn())
    assert all(torch.as_tensor(value).isfinite() for value in metrics.values())


def test_a_training_that_goes_on_begins_the_same_heads_anew(tmp_path: Any) -> None:
    cfg = replace(CONFIG, renewed=0.3)
    whole, parts = trained(cfg), trained(cfg)
    for _ in range(4):
        whole.step(drawn())
    for _ in range(2):
        parts.step(drawn())
    checkpoint.State.of(parts).write(tmp_path)
    again = trained(cfg)
    assert checkpoint.restore(again, tmp_path)
    for _ in range(2):
        again.step(drawn())
    ends = again.weights.state()
    assert all(torch.equal(value, ends[name]) for name, value in whole.weights.state().items())


def test_phases_renew_by_the_share_and_none_by_none() -> None:
    assert nitrofusion.phases(CONFIG)[-1].renewals == ()
    [renewal] = nitrofusion.phases(replace(CONFIG, renewed=0.01))[-1].renewals
    assert (renewal.of, renewal.share) == ("heads", 0.01)
    assert nitrofusion.sampler(CONFIG).num_steps == 1


def test_more_heads_than_there_are_cannot_be_asked() -> None:
    told = {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__}
    for words, message in (
        ({"asked": 4}, "asked=4: a level and task has heads=3"),
        ({"levels": []}, "levels: .*at least 1"),
        ({"levels": [0.0]}, "levels.*greater than 0"),
        ({"renewed": 1.0}, "renewed: .*less than 1"),
    ):
        with pytest.raises(ValueError, match=message):
            check(nitrofusion.Config, {**told, **words}, "arms.x")
