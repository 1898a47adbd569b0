"""The loop: resumed runs are bitwise uninterrupted ones, divergence ends a run, only the phase's networks learn."""

import itertools

import pytest
import torch

from stages.core.spec import even
from stages.models.network import seeded_build
from stages.models.space import Pixels
from stages.models.transformer import TransformerConfig
from stages.training import checkpoint, flow_matching, loop
from stages.training.budget import Budget
from stages.training.levels import Uniform
from stages.training.loop import Trainer
from stages.training.method import Blend, Follower, Frozen, Phase, Trained, unprepared
from stages.training.roles import Start
from tests.training.words import rows, table

PROMPTS = ["a bold 7", "a thin 3"]
TINY = TransformerConfig(kind="transformer", width=8, num_layers=1, num_heads=1, patch_size=2)
METHOD = flow_matching.Config(
    lr=1e-2, condition_dropout=0.2, times=Uniform(name="uniform"), latent=0.0, perturbation=0.0, nfe=4
)


def budget(**changes):
    base = {"iterations": 8, "ema": 0.9, "clip": 1.0, "warmup": 2, "final_lr": 0.1, "precision": "float32", "slices": 1}
    return Budget(**(base | changes))


def batch_at(iteration):
    rng = torch.Generator().manual_seed(iteration)
    return {"x0": torch.randn(6, 1, 4, 4, generator=rng), "cond": rows(torch.arange(6) % 2)}


def trainer(method=flow_matching, cfg=METHOD, **changes):
    net = seeded_build(0, TINY, (1, 4, 4), table(PROMPTS))
    return Trainer(
        method, cfg, budget(**changes), Start(init=net, teacher=net, space=Pixels((1, 4, 4))), seed=3, device="cpu"
    )


def weights(net):
    return torch.cat([p.flatten() for p in net.parameters()])


def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path):
    whole = trainer().run(batch_at, resume=tmp_path / "none", sink=lambda *_: None)
    first = trainer()
    for iteration in range(5):
        first.step(batch_at(iteration))
    checkpoint.State.of(first).write(tmp_path / "resume")
    asked = []
    second = trainer().run(lambda i: asked.append(i) or batch_at(i), resume=tmp_path / "resume", sink=lambda *_: None)
    assert asked == [5, 6, 7], "only the missing iterations may run"
    assert torch.equal(weights(second.student), weights(whole.student))
    assert second.cost == whole.cost
    assert whole.cost.totals["network_evaluations"] == whole.cost.totals["backward_passes"] == 8 * 6


def test_training_learns(tmp_path):
    losses = []
    fixed = batch_at(0)
    trainer(iterations=60, warmup=0).run(
        lambda _i: fixed, resume=tmp_path, sink=lambda _s, m: losses.append(m["flow/loss"])
    )
    assert losses[-1] < 0.8 * losses[0]


def test_divergence_ends_the_run_with_advice(tmp_path):
    def wild(iteration):
        given = batch_at(iteration)
        return {**given, "x0": 1e30 * given["x0"]}

    with pytest.raises(ValueError, match=r"training diverged at iteration .*flow/loss.*lower the learning rate"):
        trainer().run(wild, resume=tmp_path, sink=lambda *_: None)


def test_divergence_names_the_last_good_state(tmp_path, monkeypatch):
    def breaks(iteration):
        given = batch_at(iteration)
        return given if iteration < 5 else {**given, "x0": 1e38 * given["x0"]}

    monkeypatch.setattr(checkpoint, "SAVE_EVERY_S", 0.0)
    with pytest.raises(ValueError, match="no state was kept before that"):
        trainer(iterations=9).run(lambda _i: breaks(9), resume=tmp_path / "none", sink=lambda *_: None)
    with pytest.raises(ValueError, match=r"the last good state, of iteration [1-5], is ") as caught:
        trainer(iterations=9).run(breaks, resume=tmp_path, sink=lambda *_: None)
    assert str(tmp_path / checkpoint.STATE) in str(caught.value)
    assert (tmp_path / checkpoint.STATE).is_file()


def test_the_average_trails_the_student(tmp_path):
    outcome = trainer(ema=0.999999, iterations=3).run(batch_at, resume=tmp_path, sink=lambda *_: None)
    last = trainer(ema=0.0, iterations=3).run(batch_at, resume=tmp_path / "x", sink=lambda *_: None)
    assert not torch.equal(weights(outcome.student), weights(last.student))


def test_learning_rates_rise_then_fall():
    plan = budget(iterations=100, warmup=10, final_lr=0.1)
    factors = [plan.lr_factor(i) for i in range(100)]
    assert factors[0] == pytest.approx(0.1, rel=1e-3)
    assert factors.index(max(factors)) == 9
    assert factors[-1] == pytest.approx(0.1, abs=0.01)
    assert all(a >= b for a, b in itertools.pairwise(factors[9:]))


class Adversarial:
    """Two trained networks and a follower, with updates that are not one to one."""

    NEEDS = "images"

    @staticmethod
    def roles(_cfg):
        return {
            "student": Trained(start="init", lr=1e-2),
            "critic": Trained(start="teacher", lr=1e-2),
            "old": Follower(of="student", decay=lambda n: 0.5 if n > 1 else 0.0),
        }

    @staticmethod
    def prepare(_world, batch, _rng, _cfg):
        return batch

    @staticmethod
    def _loss(name):
        def loss(world, batch, _rng, _cfg):
            t = torch.full((6,), 0.5)
            both = world.nets["student"](batch["x0"], t, batch["cond"]) * world.nets["critic"](
                batch["x0"], t, batch["cond"]
            )
            return (both - 1).square().mean(), {"of": 1.0 if name == "student" else 2.0}

        return loss

    def phases(self, _cfg):
        return (
            Phase(name="critic", trains=("critic",), loss=self._loss("critic"), repeats=3),
            Phase(name="student", trains=("student",), loss=self._loss("student"), every=2),
        )

    @staticmethod
    def sampler(_cfg):
        return even(1)


def test_phases_update_what_they_name_as_often_as_they_say():
    made = trainer(method=Adversarial(), cfg=None)
    # The output layer of this transformer starts at zero; a product of two zeros would have no gradient.
    for name in ("student", "critic"):
        torch.nn.init.constant_(made.weights.nets[name].body.proj_out.bias, 0.5)
    before = {name: weights(net) for name, net in made.world.nets.items()}
    for iteration in range(4):
        made.step(batch_at(iteration))
    assert made.updates == {"student": 2, "critic": 12}
    assert torch.equal(before["teacher"], weights(made.world.nets["teacher"]))
    for name in ("student", "critic"):
        assert not torch.equal(before[name], weights(made.weights.nets[name]))
    assert not any(p.requires_grad for net in made.world.nets.values() for p in net.parameters())
    assert all(p.grad is None for net in made.world.nets.values() for p in net.parameters())


def test_a_follower_averages_what_it_follows():
    made = trainer(method=Adversarial(), cfg=None)
    seen = []
    for iteration in range(3):
        made.step(batch_at(iteration))
        seen.append(weights(made.weights.nets["student"]))
    # Student updates in iterations 0 and 2; decay 0, then one half.
    torch.testing.assert_close(weights(made.weights.nets["old"]), 0.5 * seen[0] + 0.5 * seen[2])


def test_a_closed_form_teacher_lends_no_weights():
    exact = torch.nn.Identity()
    net = seeded_build(0, TINY, (1, 4, 4), table(PROMPTS))
    made = Trainer(
        Adversarial(), None, budget(), Start(init=net, teacher=exact, space=Pixels((1, 4, 4))), seed=0, device="cpu"
    )
    assert torch.equal(weights(made.weights.nets["critic"]), weights(net))


def test_reports_come_regularly_and_at_the_end(tmp_path):
    steps = []
    trainer(iterations=25).run(batch_at, resume=tmp_path, sink=lambda step, _m: steps.append(step))
    assert steps == [loop.REPORT_EVERY, 2 * loop.REPORT_EVERY, 25]


class Staged:
    """A second phase that starts half-way, and pulls the student back to where it began after each of its updates."""

    def __init__(self):
        self.seen = []

    def roles(self, _cfg):
        return {"student": Trained(start="init", lr=1e-2), "reference": Frozen()}

    prepare = staticmethod(unprepared)

    def phases(self, _cfg):
        late = Phase(
            name="late", trains=("student",), loss=self.late, start=0.5,
            blends=(Blend(of="reference", into="student", weight=1.0),),
        )  # fmt: skip
        return (Phase(name="early", trains=("student",), loss=self.early), late)

    def early(self, world, batch, _rng, _cfg):
        self.seen.append(world.progress)
        return world.nets["student"](batch["x0"], torch.full((6,), 0.5), batch["cond"]).square().mean() - 1.0, {}

    def late(self, world, batch, rng, cfg):
        return self.early(world, batch, rng, cfg)


def test_a_phase_may_start_late_and_blend_a_role_into_another():
    made = trainer(method=Staged(), cfg=None, iterations=4)
    torch.nn.init.normal_(made.weights.nets["student"].body.proj_out.weight, generator=torch.Generator().manual_seed(0))
    moved, metrics = [], []
    for iteration in range(4):
        metrics.append(made.step(batch_at(iteration)))
        moved.append(not torch.equal(weights(made.weights.nets["student"]), weights(made.weights.nets["reference"])))
    assert moved == [True, True, False, False], "a blend of all of the reference is the reference"
    assert ["late/loss" in each for each in metrics] == [False, False, True, True]
    assert made.method.seen == [0.0, 0.25, 0.5, 0.5, 0.75, 0.75]
