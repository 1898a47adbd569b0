"""Rules that end a training: when each does, and that a resumed training ends where the whole one does."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from torch import nn

from stages.core.config import check
from stages.training import checkpoint
from stages.training.stopping import Distance, Heldout, Stop, Watch
from tests.training.test_loop import Adversarial, batch_at, trainer

NONE = {"window": 2, "plateau": None, "drift": None, "heldout": None, "distance": None}


def watch(**rules: object) -> Watch:
    return Watch(Stop(**{**NONE, **rules}))  # type: ignore[arg-type]


def ended(seen: Watch, metrics: Sequence[dict[str, float]]) -> tuple[int, str | None]:
    for number, each in enumerate(metrics, 1):
        if rule := seen.see(each):
            return number, rule
    return len(metrics), None


def rewards(*values: float) -> list[dict[str, float]]:
    return [{"policy/loss": 9.0, "policy/reward": value} for value in values]


def test_a_plateau_is_two_windows_without_a_gain() -> None:
    rising, flat = rewards(0.1, 0.2, 0.3, 0.4), rewards(0.45, 0.45, 0.41)
    assert ended(watch(plateau=0.05), rising + flat) == (7, "plateau"), ".43 against .425"
    assert ended(watch(plateau=0.0), rewards(0.1, 0.2, 0.3, 0.4, 0.5)) == (5, None)
    assert ended(watch(plateau=0.0), rewards(0.5, 0.5, 0.5, 0.5)) == (4, None), "no loss"
    assert ended(watch(plateau=0.0), rewards(0.5, 0.4, 0.3)) == (3, None), "not yet two windows"


@pytest.mark.parametrize("most", [0.0, float("nan"), float("inf")])
def test_a_budget_of_distance_is_a_positive_number(most: float) -> None:
    with pytest.raises(ValueError, match=r"rl\.arms\.x\.stop\.distance\.most"):
        check(Stop, NONE | {"distance": {"every": 1, "num_samples": 8, "most": most}}, "rl.arms.x.stop")


@pytest.mark.parametrize("name", ["kl", "drift"])
def test_drift_is_a_mean_over_a_window(name: str) -> None:
    far = [{f"policy/{name}": value, "policy/ratio": 7.0} for value in (0.0, 0.15, 0.04, 0.17, 0.9)]
    assert ended(watch(drift=0.1), far) == (4, "drift")


def test_held_out_rewards_have_to_stay_below_their_best() -> None:
    seen = watch(heldout=Heldout(every=5, num_samples=8, patience=2, tolerance=0.1))
    assert [seen.due(i) for i in (4, 5, 6, 10)] == [[], ["heldout"], [], ["heldout"]]
    looks = [0.5, 0.7, 0.55, 0.65, 0.55, 0.5]
    assert [seen.see({}, {"heldout": look}) for look in looks] == [None] * 5 + ["heldout"], ".65 is within .1 of .7"


def test_a_distance_is_a_budget_that_one_look_spends() -> None:
    seen = watch(
        distance=Distance(every=3, num_samples=8, most=2.0),
        heldout=Heldout(every=2, num_samples=8, patience=1, tolerance=0.0),
    )
    assert [seen.due(i) for i in (1, 2, 3, 6)] == [[], ["heldout"], ["distance"], ["heldout", "distance"]]
    assert [seen.see({}, {"distance": found}) for found in (1.9, 2.0, 0.1, 2.01)] == [None] * 3 + ["distance"]
    assert seen.see({}, {"heldout": 9.0}) is None, "of other prompts, in another unit"
    assert seen.see({}) is None


def test_a_rule_on_what_is_not_reported_says_so() -> None:
    with pytest.raises(
        ValueError, match=r"stop\.drift: this method reports no kl or drift or distance \(but loss, reward\)"
    ):
        watch(drift=0.1).see({"policy/loss": 1.0, "policy/reward": 0.5})


def test_no_rule_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="no rule is stated"):
        check(Stop, NONE, "rl.arms.x.stop")


class Late(Adversarial):
    """Its student begins half-way, and says nothing until then."""

    def phases(self, cfg):  # type: ignore[no-untyped-def]
        critic, student = super().phases(cfg)
        return replace(critic, every=1), replace(student, every=1, start=0.5)


def test_rules_wait_until_the_student_has_begun_to_move() -> None:
    """A method whose first part of the budget is a fake's, or a judge's, reports no reward and no drift till then."""
    made = trainer(method=Late(), cfg=None, iterations=8)  # type: ignore[arg-type]
    rules = watch(drift=0.1)
    for iteration in range(4):
        assert made._seen(rules, made.step(batch_at(iteration))) is None
    with pytest.raises(ValueError, match=r"stop\.drift: this method reports no kl or drift"):
        made._seen(rules, made.step(batch_at(4)))


class Looking:
    """Held-out rewards as they are told, of a network that it does not look at."""

    forward, scored = 30, 10

    def __init__(self, told: Sequence[float]) -> None:
        self.left = list(told)

    def __call__(self, _net: nn.Module) -> float:
        return self.left.pop(0)


def test_a_training_ends_where_its_rule_says_and_a_resumed_one_there_too(tmp_path) -> None:
    rules = Stop(**NONE | {"heldout": Heldout(every=2, num_samples=1, patience=1, tolerance=0.0)})
    looks = [0.2, 0.4, 0.3, 0.1]
    steps: dict[int, dict[str, float]] = {}
    whole = trainer(iterations=20).run(
        batch_at,
        resume=tmp_path / "none",
        sink=lambda step, told: steps.update({step: dict(told)}),
        watch=Watch(rules, {"heldout": Looking(looks)}),
    )
    assert (whole.iterations, whole.stopped, list(steps)) == (6, "heldout", [6]), "the last is reported"
    assert steps[6]["stopped_by_heldout"] == 6, "and says why it is"
    assert whole.cost.totals["network_evaluations"] == 6 * 6 + 3 * 30
    assert whole.cost.scored == 3 * 10
    first = trainer(iterations=20)
    first.watch = Watch(rules, {"heldout": Looking(looks)})
    for iteration in range(5):
        metrics = first.step(batch_at(iteration))
        assert first._seen(first.watch, metrics) is None
    checkpoint.State.of(first).write(tmp_path / "resume")
    second = trainer(iterations=20).run(
        batch_at, resume=tmp_path / "resume", sink=lambda *_: None, watch=Watch(rules, {"heldout": Looking(looks[2:])})
    )
    assert (second.iterations, second.stopped) == (6, "heldout")
    assert second.cost == whole.cost
