"""Duo: two times of one trajectory, targets that are renewed as their distance doubles, and what a student learns."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from stages.core.config import check
from stages.core.path import expand, velocity_from_data
from stages.core.rng import stream
from stages.core.uniform_state import at
from stages.distillers import duo
from stages.models.space import UniformTokens
from stages.training.budget import Budget
from stages.training.loop import Trainer
from stages.training.roles import Start
from tests.training.gaussian import tokens, world

F64 = torch.float64
CONFIG = duo.Config(
    method="duo", nfe=1, first=0.0625, widest=0.25, round=3, divergence="reverse", last="likeliest", student_lr=0.1
)


class Says(nn.Module):
    """Chances of its own for each token that is seen."""

    def __init__(self, logits: Tensor, scale: float = 1.0) -> None:
        super().__init__()
        self.logits, self.scale = nn.Parameter(logits.clone()), scale
        self.sample_shape = (len(logits), 1, 4)

    def forward(self, x: Tensor, t: Tensor, _cond: Tensor) -> Tensor:
        said = torch.einsum("kj,bkhw->bjhw", self.logits, x) * (1 + self.scale * expand(t, x))
        return velocity_from_data(x, said.softmax(dim=1), t)


def rows(n: int = 64, size: int = 5) -> dict[str, Tensor]:
    drawn = torch.randint(size, (n, 1, 4), generator=stream(0, "x0"))
    return {"x0": one_hot(drawn, size).to(F64).movedim(-1, 1), "cond": tokens(n)}


def logits(seed: int, size: int = 5) -> Tensor:
    return torch.randn(size, size, dtype=F64, generator=stream(seed, "logits"))


def value(student: nn.Module, target: nn.Module, cfg: duo.Config = CONFIG, iteration: int = 0) -> Tensor:
    made = replace(world(student=student, target=target), iteration=iteration)
    return duo.loss(made, rows(), stream(1, "loss"), cfg)[0]


def test_one_noise_gives_one_token_at_two_times_and_each_time_its_law() -> None:
    x0 = rows(4000)["x0"]
    t = torch.full((4000,), 0.7, dtype=F64)
    agree = []
    for step in (0.3, 0.03, 0.003, 0.0):
        x, earlier = duo.pair(x0, t, t - step, stream(0, "noise"))
        agree.append((x == earlier).all(dim=1).double().mean().item())
        for tokens_at, time in ((x, t), (earlier, t - step)):
            law = at(x0, time).mul(x0).sum(dim=1).mean().item()
            assert (tokens_at * x0).sum(dim=1).mean().item() == pytest.approx(law, abs=0.012)
    assert agree == sorted(agree)
    assert agree[-2] > 0.995
    assert agree[-1] == 1


def test_where_both_say_the_same_nothing_is_learnt_but_for_what_the_times_tell() -> None:
    """With delta -> 0 a student that is its own target has nothing to learn."""
    same, close = Says(logits(1)), replace(CONFIG, first=1e-9, widest=1e-9)
    for kind in ("reverse", "forward"):
        assert value(same, same, replace(close, divergence=kind)).item() == pytest.approx(0, abs=1e-8)
        assert value(same, same, replace(CONFIG, divergence=kind)).item() > 1e-3
        assert value(same, Says(logits(2)), replace(close, divergence=kind)).item() > 0.1


def test_the_divergences_are_kullback_leiblers_each_way() -> None:
    p, q = torch.tensor([[0.7], [0.2], [0.1]], dtype=F64)[None], torch.tensor([[0.3], [0.3], [0.4]], dtype=F64)[None]
    there, back = (p * (p / q).log()).sum().item(), (q * (q / p).log()).sum().item()
    assert duo.divergence(p, q, "reverse").item() == pytest.approx(there, abs=1e-6)
    assert duo.divergence(p, q, "forward").item() == pytest.approx(back, abs=1e-6)
    assert duo.divergence(p, torch.tensor([[1.0], [0.0], [0.0]], dtype=F64)[None], "reverse").isfinite().all()


def test_the_distance_doubles_with_each_round_up_to_the_widest() -> None:
    assert [duo.delta(i, CONFIG) for i in (0, 2, 3, 5, 6, 9, 10**9)] == [0.0625, 0.0625, 0.125, 0.125, 0.25, 0.25, 0.25]
    with pytest.raises(ValueError, match=r"first=0.5: delta grows from there to widest=0.25"):
        replace(CONFIG, first=0.5)


def test_the_target_is_the_student_of_the_last_rounds_end() -> None:
    """The teacher at first, whatever the student has learnt meanwhile."""
    net = Says(logits(1).float())
    space = UniformTokens((5, 1, 4))
    budget = Budget(iterations=9, ema=0.9, clip=1.0, warmup=0, final_lr=1.0, precision="float32", slices=1)
    made = Trainer(duo, CONFIG, budget, Start(net, net, space), seed=0, device="cpu")
    batch = {key: each.float() if each.is_floating_point() else each for key, each in rows().items()}
    kept = {name: made.weights.nets[name].logits for name in ("teacher", "student", "target")}
    teacher, students = kept["teacher"].clone(), []
    for iteration in range(7):
        made.step(batch)
        students.append(kept["student"].detach().clone())
        goal = teacher if iteration < 2 else students[iteration - (iteration + 1) % 3]
        assert torch.equal(kept["target"], goal), iteration
    assert not torch.equal(students[-1], teacher)


def test_a_student_learns_in_one_step_what_its_teacher_says_later() -> None:
    """Of tokens that a student sees at t, the divergence that it descends is to the target's words at s."""
    student, target = Says(logits(3), scale=0.0), Says(logits(1), scale=0.0)
    cfg = replace(CONFIG, first=1e-6, widest=1e-6, divergence="forward")
    optimiser = torch.optim.Adam(student.parameters(), lr=0.1)
    for _ in range(150):
        optimiser.zero_grad()
        value(student, target, cfg).backward()
        optimiser.step()
    torch.testing.assert_close(student.logits.softmax(dim=1), target.logits.softmax(dim=1), atol=0.01, rtol=0)


def test_a_student_takes_its_last_tokens_as_stated() -> None:
    spec = duo.sampler(CONFIG)
    assert spec.rule == {"name": "uniform_state", "last": "likeliest"}
    assert duo.sampler(replace(CONFIG, last="drawn")).rule["last"] == "drawn"
    assert spec.times == (1.0, 0.0)
    assert check(duo.Config, vars(CONFIG), "duo") == CONFIG
