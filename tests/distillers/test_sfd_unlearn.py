"""Score forgetting distillation: what it is without forgetting, where forgotten prompts go, and that others stay."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from stages.core.config import check
from stages.core.rng import fork, stream
from stages.core.types import World
from stages.distillers import diff_instruct, sfd_unlearn, sim
from tests.training.gaussian import AffineStudent, GaussianVelocity, tokens, world


def overrides(**words: str) -> tuple[sfd_unlearn.Override, ...]:
    return tuple(sfd_unlearn.Override(forget=forget, show=show) for forget, show in words.items())


CONFIG = sfd_unlearn.Config(
    method="sfd_unlearn", overrides=overrides(cat="dog"), forget_weight=1.0, matches="identity", alpha=1.2, nfe=1,
    guidance=1.0, fake_updates=1, t_min=0.02, t_max=0.98, student_lr=1e-4, fake_lr=1e-4,
)  # fmt: skip
EMPTY, CAT, DOG, BIRD = range(4)
ROWS = {"cat": CAT, "dog": DOG}
MEANS = [0.0, 2.0, -1.0, 0.5]
SIZE, COUNT = 16, 400


class Students(AffineStudent):
    """A shift for each prompt."""

    def __init__(self, scale: float, shifts: list[float]) -> None:
        super().__init__(scale, 0.0, SIZE)
        self.shift = torch.nn.Parameter(torch.tensor(shifts, dtype=torch.float64))

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        assert (t == 1).all()
        return x - (self.scale * x + self.shift[cond[:, 0]].reshape(-1, 1, 1, 1))


def networks(shifts: list[float], fake: list[float] | None = None) -> World:
    student = Students(1.2, shifts)
    made = world(
        student=student, fake=GaussianVelocity(shifts if fake is None else fake, 1.2, SIZE),
        teacher=GaussianVelocity(MEANS, 1.2, SIZE),
    )  # fmt: skip
    return replace(made, rows=ROWS)


def gradient(made: World, cond: torch.Tensor, cfg: sfd_unlearn.Config) -> list[float]:
    """Of the shifts of the four prompts."""
    value, _ = sfd_unlearn.student_loss(made, {"cond": cond}, stream(0, "s"), cfg)
    return torch.autograd.grad(value, made.nets["student"].shift)[0].tolist()


@pytest.mark.parametrize("matches", ["identity", "divergence"])
def test_forgotten_prompts_come_to_rest_on_their_override_and_others_on_themselves(matches: Any) -> None:
    cfg = replace(CONFIG, matches=matches)
    everyone = torch.tensor([CAT, DOG, BIRD]).repeat(COUNT)[:, None]
    assert gradient(networks([0, -1, -1, 0.5]), everyone, cfg) == pytest.approx([0, 0, 0, 0], abs=1e-12)
    of_the_teacher = gradient(networks(MEANS), everyone, cfg)
    assert of_the_teacher[CAT] > 0.05, "from 2 down to -1"
    assert [of_the_teacher[k] for k in (EMPTY, DOG, BIRD)] == pytest.approx([0, 0, 0], abs=1e-12)
    beyond = gradient(networks([0, -2, -1, 0.5]), everyone, cfg)
    assert beyond[CAT] < -0.01


def test_a_prompt_may_be_overridden_by_the_empty_one() -> None:
    cfg = replace(CONFIG, overrides=overrides(cat=""))
    made = replace(networks([0, 0, -1, 0.5]), rows={"cat": CAT, "": EMPTY})
    assert gradient(made, tokens(COUNT, BIRD), cfg)[CAT] == pytest.approx(0, abs=1e-12)


OF_SIM = sim.Config(
    method="sim", distance=sim.Squared(name="squared"), alpha=1.2, nfe=1, guidance=1.0, fake_updates=1, t_min=0.02,
    t_max=0.98, student_lr=1e-4, fake_lr=1e-4,
)  # fmt: skip


def streams() -> list[torch.Generator]:
    """What `first` draws with: for what remains, and for what is forgotten."""
    return fork(stream(0, "s"), "remain", "forget")


def first(loss: Any, made: World, cond: torch.Tensor, cfg: sfd_unlearn.Config) -> torch.Tensor:
    return loss(made, {"cond": cond}, stream(0, "s"), cfg)[0]


def test_without_forgetting_it_is_score_identity_distillation() -> None:
    made, cond = networks([0, 1, 1, 1], fake=[0, 0.8, 0.9, 0.7]), tokens(COUNT, BIRD)
    found = first(sfd_unlearn.student_loss, made, cond, replace(CONFIG, forget_weight=0.0))
    expected, _ = sim.student_loss(made, {"cond": cond}, streams()[0], OF_SIM)
    assert found.item() == expected.item()


def test_the_divergence_is_followed_as_in_diff_instruct() -> None:
    cfg = replace(CONFIG, matches="divergence", forget_weight=0.0)
    made, cond = networks([0, 1, 1, 1], fake=[0, 0.8, 0.9, 0.7]), tokens(COUNT, BIRD)
    other = diff_instruct.Config(
        method="diff_instruct", nfe=1, weighs="data", guides="teacher", guidance=1.0, guidance_range=0.0,
        condition_dropout=0.0, t_min=0.02, t_max=0.98, student_lr=1e-4, fake_lr=1e-4,
    )  # fmt: skip
    value = first(sfd_unlearn.student_loss, made, cond, cfg)
    expected, _ = diff_instruct.student_loss(made, {"cond": cond}, streams()[0], other)
    student = made.nets["student"]
    found = [torch.autograd.grad(each, [student.shift, student.scale]) for each in (value, expected)]
    torch.testing.assert_close(*found)


def test_an_override_of_the_same_law_is_that_prompt_with_more_weight() -> None:
    """The teacher knows no difference between the two, so that forgetting is a distillation of the first."""
    made, cond = networks([0, 1, 1, 1], fake=[0, 0.8, 0.9, 0.7]), tokens(COUNT, BIRD)
    made.nets["teacher"].mean.data[DOG] = made.nets["teacher"].mean.data[CAT]
    found = first(sfd_unlearn.student_loss, made, cond, replace(CONFIG, forget_weight=3.0))
    of = [
        sim.student_loss(made, {"cond": tokens(COUNT, prompt)}, rng, OF_SIM)[0].item()
        for prompt, rng in zip((BIRD, CAT), streams(), strict=True)
    ]
    assert found.item() == pytest.approx(of[0] + 3 * of[1], rel=1e-12)


def test_forgetting_adds_its_weight_times_a_loss_of_its_own() -> None:
    made = networks([0, 1, 1, 1], fake=[0, 0.8, 0.9, 0.7])
    for loss in (sfd_unlearn.student_loss, sfd_unlearn.fake_loss):
        of = [
            first(loss, made, tokens(COUNT, BIRD), replace(CONFIG, forget_weight=weight)).item()
            for weight in (0.0, 1.0, 3.0)
        ]
        assert of[2] - of[0] == pytest.approx(3 * (of[1] - of[0]), rel=1e-9)
        assert abs(of[1] - of[0]) > 0.01


def test_a_forgotten_prompt_of_the_batch_stands_for_its_override() -> None:
    cond = torch.tensor([CAT, DOG, BIRD, CAT])[:, None]
    assert sfd_unlearn.remaining(networks(MEANS), cond, CONFIG).flatten().tolist() == [DOG, DOG, BIRD, DOG]
    assert cond.flatten().tolist() == [CAT, DOG, BIRD, CAT]


def test_prompts_to_forget_are_drawn_equally_often_each_with_its_own_override() -> None:
    cfg = replace(CONFIG, overrides=overrides(cat="dog", bat="bird"))
    made = replace(networks(MEANS), rows={"cat": 1, "bat": 7, "dog": 2, "bird": 3})
    forget, override = sfd_unlearn.forgotten(made, tokens(4000), stream(0, "w"), cfg)
    pairs = torch.cat([forget, override], dim=1)
    assert {tuple(pair) for pair in pairs.tolist()} == {(1, 2), (7, 3)}
    assert (forget == 7).double().mean().item() == pytest.approx(0.5, abs=0.03)
    assert forget.shape == override.shape == (4000, 1)


def test_the_fake_learns_forgotten_samples_under_their_own_prompt() -> None:
    """At its optimum for both: the student's own law by prompt, whatever the teacher shows there."""
    made, cond = networks([0, 1.0, -1, 0.5]), tokens(4 * COUNT, BIRD)
    slope = slopes_of(made, cond)
    assert slope == pytest.approx([0, 0, 0, 0], abs=0.02)
    off = slopes_of(networks([0, 1.0, -1, 0.5], fake=[0, -1.0, -1, 0.5]), cond)
    assert off[CAT] < -0.3


def slopes_of(made: World, cond: torch.Tensor) -> list[float]:
    fake = made.nets["fake"]
    value, _ = sfd_unlearn.fake_loss(made, {"cond": cond}, stream(0, "f"), CONFIG)
    return torch.autograd.grad(value, fake.mean)[0].tolist()


def test_it_asks_for_the_rows_of_its_prompts() -> None:
    cfg = replace(CONFIG, overrides=overrides(cat="dog", lynx="dog", bat=""))
    assert sfd_unlearn.prompts(cfg) == ("cat", "dog", "lynx", "bat", "")


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "overrides: .*at least 1"),
        ([("", "dog")], "forget: .*at least 1 character"),
        ([("cat", "cat")], "'cat' is to be forgotten, and is what another prompt, or itself, is to show"),
        ([("cat", "dog"), ("dog", "bird")], "'dog' is to be forgotten, and is what another"),
        ([("cat", "dog"), ("cat", "bird")], "'cat' is to be forgotten twice"),
    ],
)
def test_overrides_that_say_nothing_are_refused(pairs: list[tuple[str, str]], message: str) -> None:
    told = {name: getattr(CONFIG, name) for name in CONFIG.__dataclass_fields__}
    told["overrides"] = [{"forget": forget, "show": show} for forget, show in pairs]
    with pytest.raises(ValueError, match=message):
        check(sfd_unlearn.Config, told, "arms.x")
