"""Online Diffusion-DPO: Bradley and Terry's loss of a pair, and that of two it is DGPO."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stages.core.path import mix
from stages.core.rng import stream
from stages.core.types import World
from stages.policies import dgpo, diffusion_dpo
from tests.policies.groups import gradient, level, mean_pixel, prepared, slope_of, tiny

CONFIG = diffusion_dpo.Config(
    method="diffusion_dpo", rollout_steps=4, nfe=8, num_draws=4, levels="any", t_min=0.1, t_max=1.0, beta=7.0,
    student_lr=1e-4,
)  # fmt: skip
DGPO = dgpo.Config(
    method="dgpo", rollout_steps=4, nfe=8, guidance=1.0, reference="frozen", reference_guidance=1.0,
    advantage_scale="group", summed="rewards",
    num_draws=4,
    levels="any", t_min=0.1, t_max=1.0, beta=7.0,
    beta_kl=0.0, clip_range=1e9, old_decay=0.3, old_decay_rate=1e-3, student_lr=1e-4,
)  # fmt: skip


def errors(world: World, given: dict[str, Tensor], role: str, key: str) -> Tensor:
    """l [G] of the better or worse samples, at the levels and noises that the loss draws."""
    t, eps = diffusion_dpo.draw(given, stream(0, "loss"), CONFIG)
    v = world.nets[role](mix(given[key], eps, t), t, given["pair_cond"])
    return (v - (eps - given[key])).square().flatten(1).mean(dim=1)


@pytest.mark.parametrize("beta", [1.0, 5000.0])
def test_at_the_reference_it_is_ln_2_and_descends_the_difference_of_errors(beta: float) -> None:
    world, cfg = level(diffusion_dpo, CONFIG), replace(CONFIG, beta=beta)
    given = prepared(diffusion_dpo, world, cfg)
    assert diffusion_dpo.loss(world, given, stream(0, "loss"), cfg)[0].item() == pytest.approx(math.log(2))
    gap = errors(world, given, "student", "better") - errors(world, given, "student", "worse")
    expected = beta / 4 * gradient(gap.mean(), world.nets["student"])
    torch.testing.assert_close(slope_of(diffusion_dpo, world, given, cfg), expected)


def test_away_from_it_the_loss_is_that_of_the_margin() -> None:
    world = tiny(diffusion_dpo, CONFIG)
    given = prepared(diffusion_dpo, world, CONFIG)
    excess = {
        key: errors(world, given, "student", key) - errors(world, given, "reference", key)
        for key in ("better", "worse")
    }
    margin = -CONFIG.beta / 2 * (excess["better"] - excess["worse"])
    value, metrics = diffusion_dpo.loss(world, given, stream(0, "loss"), CONFIG)
    torch.testing.assert_close(value, (1 + (-margin).exp()).log().mean())
    assert float(metrics["accuracy"]) == pytest.approx((margin > 0).double().mean().item())
    assert float(metrics["won"]) == pytest.approx(excess["better"].mean().item())
    assert float(metrics["lost"]) == pytest.approx(excess["worse"].mean().item())


def test_of_two_samples_the_gradient_is_dgpos_times_beta(monkeypatch: pytest.MonkeyPatch) -> None:
    world = tiny(diffusion_dpo, CONFIG)
    given = prepared(diffusion_dpo, world, CONFIG, size=2)
    judged = World(nets={**world.nets, "old": world.nets["student"]}, space=world.space, reward=mean_pixel)
    pairs = prepared(dgpo, judged, DGPO, size=2)
    t, eps = diffusion_dpo.draw(given, stream(0, "loss"), CONFIG)
    monkeypatch.setattr(dgpo, "draw", lambda *_: (t.repeat_interleave(2), eps.repeat_interleave(2, dim=0)))
    assert torch.equal(pairs["x0"][pairs["advantage"] > 0], given["better"])
    found = slope_of(diffusion_dpo, world, given, CONFIG)
    torch.testing.assert_close(found, CONFIG.beta * slope_of(dgpo, judged, pairs, DGPO))
    assert found.abs().max() > 1e-4


def test_exchanging_the_two_turns_the_gradient_round() -> None:
    world = level(diffusion_dpo, CONFIG)
    given = prepared(diffusion_dpo, world, CONFIG)
    turned = {**given, "better": given["worse"], "worse": given["better"]}
    found = slope_of(diffusion_dpo, world, given, CONFIG)
    torch.testing.assert_close(slope_of(diffusion_dpo, world, turned, CONFIG), -found)
    same = {**given, "worse": given["better"]}
    assert slope_of(diffusion_dpo, world, same, CONFIG).abs().max() < 1e-15


def test_a_pair_is_its_groups_best_and_worst() -> None:
    given = prepared(diffusion_dpo, tiny(diffusion_dpo, CONFIG), CONFIG)
    scores = given["reward"].reshape(3, 8)
    torch.testing.assert_close(mean_pixel(given["better"], given["cond"]), scores.amax(dim=1))
    torch.testing.assert_close(mean_pixel(given["worse"], given["cond"]), scores.amin(dim=1))
    assert torch.equal(given["pair_cond"], given["cond"][::8])


def test_a_group_of_equals_teaches_nothing_and_the_others_go_on() -> None:
    world = tiny(diffusion_dpo, CONFIG)
    one = replace(world, reward=lambda x, cond: torch.where(cond[:, 0] == 1, mean_pixel(x, cond), 0.2))
    given = prepared(diffusion_dpo, one, CONFIG)
    assert given["counts"].tolist() == [0, 1, 0]
    excess = [
        errors(world, given, "student", key)[1] - errors(world, given, "reference", key)[1]
        for key in ("better", "worse")
    ]
    expected = -torch.nn.functional.logsigmoid(-CONFIG.beta / 2 * (excess[0] - excess[1])) / 3
    torch.testing.assert_close(diffusion_dpo.loss(one, given, stream(0, "loss"), CONFIG)[0], expected)
    none = replace(world, reward=lambda x, _: torch.full((len(x),), 0.2, dtype=x.dtype))
    assert slope_of(diffusion_dpo, none, prepared(diffusion_dpo, none, CONFIG), CONFIG).abs().max() == 0
