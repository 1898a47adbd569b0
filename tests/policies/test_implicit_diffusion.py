"""Implicit diffusion: what comes out of the queue, by which weights, and its gradient against a whole roll-out's."""

from dataclasses import asdict, replace

import pytest
import torch
from torch import Tensor

from stages.core.config import check
from stages.core.rng import stream
from stages.core.spec import even
from stages.core.types import World
from stages.models.space import Points
from stages.policies import implicit_diffusion
from stages.samplers.rollout import rolled_out
from tests.policies.groups import gradient, mean_pixel, tiny
from tests.training.gaussian import GaussianVelocity, ShiftedVelocity, tokens
from tests.training.tiny import TinyNet

CONFIG = implicit_diffusion.Config(
    method="implicit_diffusion", nfe=4, guidance=1.0, steps=2, beta_kl=0.0, student_lr=1e-4,
)  # fmt: skip


def asked(iteration: int) -> dict[str, Tensor]:
    """Another prompt a row in every iteration."""
    return {"cond": (torch.arange(6)[:, None] + iteration) % 9, "group": torch.arange(2).repeat_interleave(3)}


def run(world: World, cfg: implicit_diffusion.Config, count: int) -> list[dict[str, Tensor]]:
    """What is prepared in each of `count` iterations, weights standing still."""
    made: list[dict[str, Tensor]] = []
    for iteration in range(count):
        carried = {name: made[-1][name] for name in implicit_diffusion.CARRIES} if made else {}
        given = replace(world, carried=carried)
        made.append(dict(implicit_diffusion.prepare(given, asked(iteration), stream(iteration, "prepare"), cfg)))
    return made


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_with_weights_that_stand_still_what_ends_is_an_euler_roll_out(steps: int, guidance: float) -> None:
    cfg = replace(CONFIG, steps=steps, guidance=guidance)
    world = tiny(implicit_diffusion, cfg)
    made = run(world, cfg, 6)
    student = world.nets["student"]

    def guided(x: Tensor, t: Tensor, cond: Tensor, **_more: Tensor) -> Tensor:
        without = student(x, t, torch.zeros_like(cond))
        return without + guidance * (student(x, t, cond) - without)

    for began in (1, 2):
        ended = made[began + 3]
        assert torch.equal(ended["ended"], asked(began)["cond"]), "a sample keeps its prompt"
        states = rolled_out(guided, world.space.noise(6, stream(began, "prepare")), even(4).times, asked(began)["cond"])
        torch.testing.assert_close(ended["states"], states[:, -steps - 1 :])


def test_each_step_is_by_the_weights_of_its_iteration() -> None:
    made: list[dict[str, Tensor]] = []
    for iteration in range(4):
        world = tiny(implicit_diffusion, CONFIG, student=TinyNet(iteration))
        carried = {name: made[-1][name] for name in implicit_diffusion.CARRIES} if made else {}
        given = replace(world, carried=carried)
        made.append(dict(implicit_diffusion.prepare(given, asked(0), stream(iteration, "prepare"), CONFIG)))
    before, middle, end = made[3]["states"].unbind(dim=1)  # nodes 2, 3 and 4, by iterations 2 and 3
    for x, x_next, t, seed in ((before, middle, 0.5, 2), (middle, end, 0.25, 3)):
        v = TinyNet(seed)(x, torch.full((6,), t).double(), made[3]["ended"])
        torch.testing.assert_close(x_next, x - 0.25 * v)


def test_at_first_all_are_rolled_out_to_their_places() -> None:
    world = tiny(implicit_diffusion, CONFIG)
    made = run(world, CONFIG, 1)[0]
    x = world.space.noise(24, stream(0, "prepare")).unflatten(0, (6, 4))
    cond = asked(0)["cond"]
    for place in range(4):
        whole = rolled_out(world.nets["student"], x[:, place], even(4).times, cond)  # type: ignore[arg-type]
        nodes = [max(0, node) for node in range(place - 1, place + 2)]
        found = made["trails"][:, place] if place < 3 else made["states"]
        torch.testing.assert_close(found, whole[:, nodes])
    assert torch.equal(made["asked"], cond[:, None].expand(-1, 3, -1))


def test_the_loss_is_that_of_the_whole_way_through_the_last_calls() -> None:
    cfg = replace(CONFIG, steps=3, beta_kl=0.4)
    world = tiny(implicit_diffusion, cfg)
    made = run(world, cfg, 5)[-1]
    value, metrics = implicit_diffusion.loss(world, made, stream(0, "loss"), cfg)
    x, cond, drift = made["states"][:, 0], made["ended"], torch.zeros(()).double()
    for t in (0.75, 0.5, 0.25):
        time = torch.full((6,), t).double()
        v = world.nets["student"](x, time, cond)
        drift = drift + (v - world.nets["reference"](x, time, cond)).square().mean() / 3
        x = x - 0.25 * v
    expected = 0.4 * drift - mean_pixel(x, cond).mean()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient(value, world.nets["student"]), gradient(expected, world.nets["student"]))
    assert float(metrics["drift"]) == pytest.approx(drift.item())


def test_a_shift_of_all_steps_has_the_known_slope_once_the_queue_is_full() -> None:
    """On N(1, .25), r = x0: -.7558 by four Euler steps, as of DRaFT; a shift of the velocity lowers samples."""
    cfg = replace(CONFIG, steps=4)
    student, truth = ShiftedVelocity(GaussianVelocity(1.0, 0.5)), GaussianVelocity(1.0, 0.5).requires_grad_(False)
    world = World(
        nets={"student": student, "reference": truth}, space=Points((1, 1, 1), torch.float64), reward=mean_pixel
    )
    carried: dict[str, Tensor] = {}
    for iteration in range(4):
        made = implicit_diffusion.prepare(
            replace(world, carried=carried), {"cond": tokens(6)}, stream(iteration, "prepare"), cfg
        )
        carried = {name: made[name] for name in implicit_diffusion.CARRIES}
    (slope,) = torch.autograd.grad(implicit_diffusion.loss(world, made, stream(0, "loss"), cfg)[0], student.shift)
    assert slope.item() == pytest.approx(0.7558, abs=5e-5)


def test_of_one_step_it_is_a_plain_update() -> None:
    cfg = replace(CONFIG, nfe=1, steps=1)
    world = tiny(implicit_diffusion, cfg)
    for made in run(world, cfg, 2):
        x, x0 = made["states"].unbind(dim=1)
        torch.testing.assert_close(x0, x - world.nets["student"](x, torch.ones(6).double(), made["ended"]))


def test_more_steps_than_there_are_are_refused() -> None:
    with pytest.raises(ValueError, match=r"steps=5 exceeds the 4 steps of nfe; lower it, or raise nfe"):
        check(implicit_diffusion.Config, {**asdict(CONFIG), "steps": 5}, "rl.arms.implicit_diffusion")
