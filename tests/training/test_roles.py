"""The weights of roles: what exists once, what is a role's own, and twins on one base through a real update."""

import copy
import threading
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from stages.core.rng import stream
from stages.distillers import dmd2
from stages.models.space import Points
from stages.policies import dgpo
from stages.training import checkpoint
from stages.training.budget import Budget
from stages.training.loop import Trainer
from stages.training.method import Frozen, Trained
from stages.training.roles import AVERAGE, FULL, Adapters, Start, Weights
from tests.training.tiny import TinyNet

BUDGET = Budget(iterations=9, ema=0.9, clip=1.0, warmup=0, final_lr=1.0, precision="float32", slices=1)
DMD2 = dmd2.Config(
    guidance_levels="shared", fake_follows=0.0,
    method="dmd2", nfe=2, guidance=1.5, critic_updates=2, gan_weight=0.1, t_min=0.02, t_max=0.98, student_lr=1e-2,
    fake_lr=1e-2, head_lr=1e-2,
)  # fmt: skip
DGPO = dgpo.Config(
    method="dgpo", rollout_steps=2, nfe=2, guidance=1.0, reference="frozen", reference_guidance=1.0,
    advantage_scale="group", summed="rewards", num_draws=1,
    levels="any", t_min=0.0, t_max=1.0, beta=10.0, beta_kl=0.1,
    clip_range=0.01, old_decay=0.3, old_decay_rate=1e-3, student_lr=1e-2,
)  # fmt: skip
SPACE = Points((1, 4, 4), torch.float32)


class Adapted(nn.Module):
    """A network with a low-rank adapter beside each layer of its base, run again in the backward pass if told so."""

    def __init__(self, *, recompute: bool) -> None:
        super().__init__()
        self.base, self.recompute, self.feature_dim = TinyNet(0).float(), recompute, 8
        rng = stream(0, "adapters")
        self.adapter_down = nn.Parameter(torch.randn(16, 2, generator=rng))
        self.adapter_up = nn.Parameter(torch.zeros(2, 16))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return recomputed(self.answer, x, t, cond, use_reentrant=False)
        return self.answer(x, t, cond)

    def answer(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        moved = x.flatten(1) @ self.adapter_down @ self.adapter_up
        return self.base(x, t, cond) + moved.reshape(x.shape)

    def features(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.base.features(x, t, cond)


def is_adapter(name: str) -> bool:
    return name.startswith("adapter_")


class Apart(Adapters):
    """The same training of adapters, on networks that share nothing."""

    def twin(self, net: nn.Module) -> nn.Module:
        return copy.deepcopy(net)


def batch_at(iteration: int) -> dict[str, Tensor]:
    rng = stream(1, "batch", iteration)
    return {"x0": torch.randn(8, 1, 4, 4, generator=rng), "cond": torch.arange(8)[:, None] % 4 + 1}


def trained(tuning, *, recompute: bool) -> Trainer:
    net = Adapted(recompute=recompute)
    made = Trainer(dmd2, DMD2, BUDGET, Start(net, net, SPACE), seed=0, device="cpu", tuning=tuning)
    for iteration in range(3):
        made.step(batch_at(iteration))
    return made


def test_two_adapters_on_one_base_train_as_networks_apart_do() -> None:
    apart = trained(Apart(is_adapter), recompute=False)
    for recompute in (False, True):
        twins = trained(Adapters(is_adapter), recompute=recompute)
        assert twins.weights.state().keys() == apart.weights.state().keys()
        for name, tensor in twins.weights.state().items():
            torch.testing.assert_close(tensor, apart.weights.state()[name], rtol=1e-5, atol=1e-7)
    nets = twins.weights.nets
    assert nets["student"].adapter_up is not nets["fake"].adapter_up
    assert not torch.equal(nets["student"].adapter_up, nets["fake"].adapter_up)
    assert (nets["teacher"].adapter_up == 0).all(), "the teacher stays what it was"


def test_twins_hold_their_base_once_and_save_their_adapters_alone() -> None:
    made = trained(Adapters(is_adapter), recompute=True)
    roles = {**made.weights.nets, AVERAGE: made.weights.average}
    bases = {id(p) for role in ("teacher", "student", "fake", AVERAGE) for p in roles[role].base.parameters()}
    assert len(bases) == len(list(TinyNet(0).parameters()))
    saved = {name.partition(":")[2] for name in made.weights.state() if not name.startswith("head:")}
    assert saved == {"adapter_down", "adapter_up"}


def test_what_nobody_changes_exists_once_and_is_in_no_checkpoint() -> None:
    net = TinyNet(0)
    weights = Weights(dgpo.roles(DGPO), Start(net, net, SPACE), seed=0, device="cpu", tuning=FULL)
    assert weights.nets["teacher"] is weights.nets["reference"]
    assert {name.partition(":")[0] for name in weights.state()} == {"student", "old", AVERAGE}
    assert len({id(module) for module in [*weights.nets.values(), weights.average]}) == 4


def test_an_unknown_builder_is_named_with_those_there_are() -> None:
    roles = {"student": Trained(start="techer", lr=1e-3), "reference": Frozen()}
    with pytest.raises(ValueError, match=r"no builder .*'techer'; did you mean 'teacher'\? Valid: init, teacher"):
        Weights(roles, Start(TinyNet(0), TinyNet(1), SPACE), seed=0, device="cpu", tuning=FULL)


def test_a_state_is_written_beside_the_training_and_is_that_of_its_moment(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "SAVE_EVERY_S", 0.0)
    gate, write = threading.Event(), checkpoint.State.write
    monkeypatch.setattr(checkpoint.State, "write", lambda state, folder: (gate.wait(), write(state, folder)) and None)
    made = trained(FULL, recompute=False)
    then = {name: tensor.clone() for name, tensor in made.weights.state().items()}
    with checkpoint.Saver(tmp_path, 0) as saver:
        saver.save(made)
        assert not saver.due(), "one is on its way"
        made.step(batch_at(3))
        assert not list(tmp_path.iterdir())
        gate.set()
    again = trained(FULL, recompute=False)
    again.step(batch_at(3))
    assert checkpoint.restore(again, tmp_path)
    assert again.iteration == 3
    assert all(torch.equal(tensor, then[name]) for name, tensor in again.weights.state().items())


def test_a_state_that_cannot_be_written_ends_the_training(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError), checkpoint.Saver(tmp_path / "file", 0) as saver:
        saver.save(trained(FULL, recompute=False))


def test_copies_are_rarer_where_they_take_longer(tmp_path, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(checkpoint.State, "write", lambda _state, _folder: None)

    def slow(_trainer):
        now[0] += 2.0
        return EMPTY

    monkeypatch.setattr(checkpoint.State, "of", slow)
    with checkpoint.Saver(tmp_path, 0) as saver:
        now[0] = checkpoint.SAVE_EVERY_S + 1
        assert saver.due()
        saver.save(SimpleNamespace(iteration=1))
        saver._pool.submit(int).result()  # written by then
        now[0] += 2.0 / checkpoint.SHARE - 1
        assert not saver.due()
        now[0] += 2
        assert saver.due()


EMPTY = checkpoint.State({}, {})


def test_a_loss_is_told_the_rows_of_the_prompts_that_its_method_names() -> None:
    net = TinyNet(0)
    made = Trainer(dmd2, DMD2, BUDGET, Start(net, net, SPACE, rows={"a cat": 3}), seed=0, device="cpu")
    assert made.world.rows == {"a cat": 3}
