"""TDM-R1: what its surrogate learns is DGPO's, what its student follows is TDM's, and where both come to rest."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stages.core.path import transition_residual
from stages.core.rng import stream
from stages.core.types import World
from stages.distillers import tdm
from stages.models.space import Points
from stages.policies import dgpo, tdm_r1
from tests.policies import test_dgpo
from tests.policies.groups import gradient, prepared, tiny
from tests.training.gaussian import AffineStudent, GaussianVelocity, slopes, tokens

CONFIG = tdm_r1.Config(
    method="tdm_r1", nfe=4, advantage_scale="group", summed="rewards", num_draws=1, fake_first=0.0, guidance=1.0,
    reward_weight=0.7, interval="own", t_min=0.02, t_max=0.98, fake_target="exact", huber_c=1e4, beta=7.0, beta_kl=0.0,
    clip_range=1e9, drift_bound=1e9, old_decay=0.3, old_decay_rate=1e-3, student_lr=1e-4, fake_lr=1e-4,
    surrogate_lr=1e-4, betas=(0.0, 0.95),
)  # fmt: skip


def surrogate_slope(world: World, given: dict[str, Tensor], cfg: tdm_r1.Config) -> Tensor:
    value = tdm_r1.surrogate_loss(world, given, stream(0, "loss"), cfg)[0]
    return gradient(value, world.nets["surrogate"])


def errors(world: World, given: dict[str, Tensor], role: str, cfg: tdm_r1.Config) -> tuple[Tensor, Tensor]:
    """l [B] of a role where the loss looks, and the weight of each sample's jump."""
    jump, to = tdm_r1.boundary(given, stream(0, "loss"), cfg)
    v = world.nets[role](to.x_tau, jump.tau, given["cond"])
    residual = transition_residual(v, to.x_m, jump.m, jump.tau, jump.eps)
    return residual.square().flatten(1).mean(dim=1), 1 - jump.m


def test_of_one_call_the_surrogate_learns_as_dgpos_student(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = replace(CONFIG, nfe=1, beta_kl=0.3, clip_range=0.01)
    world = tiny(tdm_r1, cfg)
    given = prepared(tdm_r1, world, cfg)
    jump, _ = tdm_r1.boundary(given, stream(0, "loss"), cfg)
    monkeypatch.setattr(dgpo, "draw", lambda *_: (jump.tau, jump.eps))
    nets = world.nets
    same = replace(world, nets={"student": nets["surrogate"], "old": nets["old"], "reference": nets["teacher"]})
    of_dgpo = replace(test_dgpo.CONFIG, beta=cfg.beta, beta_kl=cfg.beta_kl, clip_range=cfg.clip_range)
    value, metrics = dgpo.loss(same, {**given, "x0": given["ends"][:, 0]}, stream(0, "other"), of_dgpo)
    assert 0 < metrics["clipped"] < 1
    torch.testing.assert_close(tdm_r1.surrogate_loss(world, given, stream(0, "loss"), cfg)[0], value)
    torch.testing.assert_close(surrogate_slope(world, given, cfg), gradient(value, nets["surrogate"]))


def test_at_the_teacher_the_surrogate_descends_half_of_each_weighted_error() -> None:
    world = tiny(tdm_r1, CONFIG)
    world.nets["surrogate"].load_state_dict(world.nets["teacher"].state_dict())
    given = prepared(tdm_r1, world, CONFIG)
    error, weight = errors(world, given, "surrogate", CONFIG)
    expected = gradient(0.5 * (weight * given["advantage"] * error).mean(), world.nets["surrogate"])
    torch.testing.assert_close(surrogate_slope(world, given, CONFIG), expected)
    assert len(weight.unique()) > 1


def test_without_a_preference_the_anchor_alone_moves_the_surrogate() -> None:
    cfg = replace(CONFIG, beta_kl=0.3)
    world = tiny(tdm_r1, cfg)
    given = prepared(tdm_r1, world, cfg)
    given["advantage"] = torch.zeros_like(given["advantage"])
    jump, to = tdm_r1.boundary(given, stream(0, "loss"), cfg)
    mine, theirs = (world.nets[role](to.x_tau, jump.tau, given["cond"]) for role in ("surrogate", "teacher"))
    drift = (mine - theirs).square().flatten(1).mean(dim=1)
    expected = gradient(0.3 * ((1 - jump.m) * drift).mean(), world.nets["surrogate"])
    torch.testing.assert_close(surrogate_slope(world, given, cfg), expected)
    assert not surrogate_slope(world, given, replace(cfg, beta_kl=0.0)).any()


def test_a_surrogate_that_left_the_teacher_too_far_learns_no_more() -> None:
    world = tiny(tdm_r1, CONFIG)
    given = prepared(tdm_r1, world, CONFIG)
    assert surrogate_slope(world, given, CONFIG).any()
    assert not surrogate_slope(world, given, replace(CONFIG, drift_bound=1e-9)).any()


def test_jumps_nearer_data_are_looked_at_more_often_by_whole_groups() -> None:
    groups, size = 4000, 2
    given = {
        "states": torch.randn(groups * size, 4, 1, 1, 1, dtype=torch.float64),
        "ends": torch.randn(groups * size, 4, 1, 1, 1, dtype=torch.float64),
        "group": torch.arange(groups).repeat_interleave(size),
    }
    jump, to = tdm_r1.boundary(given, stream(0, "loss"), CONFIG)
    for value in (jump.m, jump.tau, jump.eps.flatten()):
        assert (value.reshape(groups, size).diff(dim=1) == 0).all()
    assert (jump.tau >= jump.m).all()
    shares = [(jump.m == m).double().mean().item() for m in (0.75, 0.5, 0.25, 0.0)]
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.02)
    row, place = 5, int(4 * (1 - jump.m[5])) - 1
    assert to.x_m[row] == given["ends"][row, place]
    assert jump.x_k[row] == given["states"][row, place]


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_a_student_whose_surrogate_is_the_teacher_is_tdms(weight: float) -> None:
    cfg = replace(CONFIG, reward_weight=weight, huber_c=1e-3)
    world = tiny(tdm_r1, cfg)
    if weight:
        world.nets["surrogate"].load_state_dict(world.nets["teacher"].state_dict())
    given = prepared(tdm_r1, world, cfg)
    of_tdm = tdm.Config(
        method="tdm", nfe=4, guidance=1.0, guidance_levels="shared", interval="own", t_min=0.02, t_max=0.98,
        fake_target="exact", huber_c=1e-3, student_lr=1e-4, fake_lr=1e-4, betas=(0.0, 0.95),
    )  # fmt: skip
    found = tdm_r1.student_loss(world, given, stream(0, "loss"), cfg)[0]
    assert torch.equal(found, tdm.student_loss(world, given, stream(0, "loss"), of_tdm)[0])


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 2.0])
def test_the_students_fixed_point_is_the_tilted_law(weight: float) -> None:
    """Teacher N(.3, 1.2^2); the surrogate is its tilt by exp(x / beta), whose mean is s2 / beta = .36 further."""
    cfg = replace(CONFIG, nfe=1, reward_weight=weight)
    teacher, surrogate = GaussianVelocity(0.3, 1.2), GaussianVelocity(0.66, 1.2)
    for off in (0.0, 0.1, -0.1):
        centre = 0.3 + weight * 0.36 + off
        student = AffineStudent(1.2, centre, 4)
        nets = {"student": student, "fake": GaussianVelocity(centre, 1.2), "teacher": teacher, "surrogate": surrogate}
        space = Points((1, 4, 4), torch.float64)
        world = World(nets=nets, space=space, reward=lambda x, _c: x.flatten(1).mean(1))
        given = {"cond": tokens(32), "group": torch.arange(4).repeat_interleave(8)}
        given = dict(tdm_r1.prepare(world, given, stream(0, "prepare"), cfg))
        found = slopes(tdm_r1.student_loss(world, given, stream(0, "loss"), cfg)[0], student)
        if off:
            assert found["shift"] * off > 0
        else:
            assert found == pytest.approx({"scale": 0, "shift": 0}, abs=1e-15)
