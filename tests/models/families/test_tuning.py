"""Weights of roles on a checkpoint: whole or adapters, float32 or bfloat16, interrupted, and continued."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stages.core.rng import stream
from stages.core.spec import even
from stages.distillers import METHODS
from stages.models import Student, TextTable, adapters, export, load, save
from stages.models import stock as stock_files
from stages.models.latents import Latents
from stages.models.pretrained import PipelineText, build
from stages.samplers.student import Noise, draw
from stages.training import checkpoint, shards
from stages.training.loop import Trainer
from stages.training.roles import Start
from stages.training.tune import Sharded, Tune, Whole, tuning
from tests.models.families import stock, tiny
from tests.models.families.test_contract import BUDGET, LORA, Rig, gap
from tests.test_contracts import settings

pytestmark = pytest.mark.slow

SHARDED = Sharded(kind="sharded", checkpointing=True)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    return Rig("sd3", tmp_path_factory.mktemp("sd3") / "checkpoint")


def trainer(rig: Any, tune: Tune, name: str = "tdm", init: Any = None) -> Trainer:
    start = Start(init or rig.net, rig.net, rig.space)
    return Trainer(METHODS[name], settings(name), BUDGET, start, seed=0, device="cpu", tuning=tuning(tune, 0))


def batch(rig: Any, iteration: int = 0) -> dict[str, Tensor]:
    x0, noise = (rig.space.noise(2, stream(n, "batch", iteration)) for n in range(2))
    return {"x0": x0, "noise": noise, "cond": torch.tensor([[1], [2]])}


def test_a_model_that_is_tuned_whole_is_exported_whole(rig: Rig, tmp_path: Path) -> None:
    made = trainer(rig, Whole(kind="full"))
    made.step(batch(rig))
    net: Any = made.weights.nets["student"]
    save(tmp_path / "model", Student(net, even(2), rig.space, rig.encoder))
    assert not (tmp_path / "model/pytorch_lora_weights.safetensors").exists()
    again, noise, cond = load(tmp_path / "model", rig.table), Noise(0, "test"), torch.tensor([[2]])
    ours = draw(again, cond, noise)
    torch.testing.assert_close(ours, draw(Student(net, even(2), rig.space, rig.encoder), cond, noise))
    assert gap(ours, draw(Student(rig.net, even(2), rig.space, rig.encoder), cond, noise)) > 1e-5
    assert gap(ours, stock.sampled(tmp_path / "model", rig, tiny.PROMPTS[1], noise)) < 1e-5


def test_a_model_that_is_held_in_parts_learns_and_is_exported_as_a_whole_one(rig: Rig, tmp_path: Path) -> None:
    whole, parts = (tuning(tune, 0).twin(rig.net) for tune in (Whole(kind="full"), SHARDED))
    empty, given = shards.hollow(parts), (*batch(rig).values(),)
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        shards.split(parts, "cpu")
        for net in (whole, parts):
            net.requires_grad_(True)
            t = torch.tensor([0.3, 0.7])
            loss = net(given[0], t, given[2]).square().mean() + net.features(given[1], t, given[2]).square().mean()
            loss.backward()
        for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
            assert (ours.grad is None) == (theirs.grad is None)
            if theirs.grad is not None:
                torch.testing.assert_close(shards.whole(ours.grad), theirs.grad, rtol=1e-4, atol=1e-7)
        with torch.no_grad():
            for p in parts.parameters():
                p.mul_(1.01)
        made: Any = shards.filled(empty, parts)
    finally:
        torch.distributed.destroy_process_group()
    save(tmp_path / "model", Student(made, even(2), rig.space, rig.encoder))
    noise = Noise(0, "test")
    ours = draw(load(tmp_path / "model", rig.table), torch.tensor([[2]]), noise)
    assert gap(ours, stock.sampled(tmp_path / "model", rig, tiny.PROMPTS[1], noise)) < 1e-5


def test_alpha_is_the_rank_in_the_file_and_nothing_else_changes(rig: Rig, tmp_path: Path) -> None:
    made = trainer(rig, replace(LORA, alpha=8.0))
    made.step(batch(rig))
    net: Any = made.weights.nets["student"]
    save(tmp_path / "model", Student(net, even(2), rig.space, rig.encoder))
    again: Any = load(tmp_path / "model", rig.table).net
    x, t, cond = rig.space.noise(1, stream(0, "x")), torch.tensor([0.5]), torch.tensor([[1]])
    torch.testing.assert_close(again(x, t, cond), net(x, t, cond))
    up = next(name for name in load_file(tmp_path / "model" / stock_files.LORA[0]) if name.endswith("lora_B.weight"))
    mine = (
        net.body.get_submodule(up.removeprefix("transformer.").removesuffix(".lora_B.weight")).lora_B["default"].weight
    )
    torch.testing.assert_close(load_file(tmp_path / "model" / stock_files.LORA[0])[up], 4 * mine)


def test_training_goes_on_with_the_adapters_it_starts_from(rig: Rig, tmp_path: Path) -> None:
    first = trainer(rig, replace(LORA, alpha=8.0))
    first.step(batch(rig))
    save(tmp_path / "model", Student(first.weights.nets["student"], even(2), rig.space, rig.encoder))
    init: Any = load(tmp_path / "model", rig.table).net
    second = trainer(rig, LORA, init=init)
    x, t, cond = rig.space.noise(1, stream(0, "x")), torch.tensor([0.5]), torch.tensor([[1]])
    with torch.no_grad():
        torch.testing.assert_close(second.weights.nets["student"](x, t, cond), init(x, t, cond))
        torch.testing.assert_close(second.weights.nets["fake"](x, t, cond), rig.net(x, t, cond))
    with pytest.raises(ValueError, match=r"tuning\.tune\.rank=3: .* has adapters of rank 2; name that"):
        trainer(rig, replace(LORA, rank=3), init=init)


@pytest.mark.parametrize("name", ["tdm", "dmd2"])
def test_an_interrupted_training_of_adapters_is_bitwise_the_same(rig: Rig, tmp_path: Path, name: str) -> None:
    whole = trainer(rig, LORA, name)
    for iteration in range(2):
        whole.step(batch(rig, iteration))
    half = trainer(rig, LORA, name)
    half.step(batch(rig))
    checkpoint.State.of(half).write(tmp_path)
    names = [
        key.rpartition(":")[2] for key in load_file(tmp_path / checkpoint.STATE) if ":" in key and "head:" not in key
    ]
    assert names
    assert all(adapters.is_adapter(key) for key in names), "the base is in no checkpoint"
    again = trainer(rig, LORA, name)
    assert checkpoint.restore(again, tmp_path)
    again.step(batch(rig, 1))
    for key, value in whole.weights.state().items():
        assert torch.equal(again.weights.state()[key], value), key


def test_a_base_in_bfloat16_has_adapters_states_and_times_in_float32(tmp_path: Path) -> None:
    at = export.found(str(tiny.saved("sd3", tmp_path / "sd3")), tiny.options("sd3", precision="bfloat16"))
    prompts = ["", *tiny.PROMPTS]
    table = TextTable(prompts, PipelineText(at, "cpu").encode(prompts))
    assert {rows.dtype for rows in table.features.values()} == {torch.bfloat16}
    net = build(at, table)
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16}
    told: list[Any] = []
    net.body.time_text_embed.register_forward_pre_hook(lambda _module, inputs: told.append(inputs[0].dtype))  # type: ignore[union-attr]
    space = Latents.of(at)
    made = trainer(type("Rig", (), {"net": net, "space": space}), replace(LORA, checkpointing=True), "dmd2")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    metrics = made.step({**batch(type("Rig", (), {"space": space}))})
    assert all(torch.as_tensor(value).isfinite() for value in metrics.values())
    assert set(told) == {torch.float32}
    assert {value.dtype for value in made.weights.state().values()} == {torch.float32}
    after = net.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    x = space.noise(1, stream(0, "x"))
    assert net(x, torch.tensor([0.5]), torch.tensor([[1]])).dtype == x.dtype == space.decode(x).dtype == torch.float32


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch's tracer, about what it does itself
def test_compiled_blocks_learn_the_same(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as they would be compiled, with Python to run them: a compiler takes minutes."""

    def trace(block: Any) -> None:
        block._compiled_call_impl = torch.compile(block._call_impl, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", trace)
    x, t, cond = rig.space.noise(1, stream(0, "x")), torch.tensor([0.5]), torch.tensor([[1]])
    made = {}
    for compile in (False, True):
        tune = tuning(replace(LORA, compile=compile), 0)
        net = tune.twin(rig.net)
        own = tune.own(net)
        for tensor in own.values():
            tensor.requires_grad_(True)
        net(x, t, cond).square().mean().backward()
        made[compile] = {name: tensor.grad for name, tensor in own.items()}
        assert bool([name for name, each in net.named_modules() if each._compiled_call_impl]) == compile
    torch.testing.assert_close(made[True], made[False])


def test_a_noise_schedule_in_bfloat16_answers_in_more_digits_than_it_computes_in(tmp_path: Path) -> None:
    at = export.found(str(tiny.saved("sd15", tmp_path / "sd")), tiny.options("sd15", precision="bfloat16"))
    prompts = ["", *tiny.PROMPTS]
    net = build(at, TextTable(prompts, PipelineText(at, "cpu").encode(prompts)))
    assert {name for name, p in net.body.named_parameters() if p.dtype == torch.float32} == {
        "conv_out.weight", "conv_out.bias",
    }  # fmt: skip
    twin: Any = tuning(LORA, 0).twin(net)
    noise, cond = torch.randn(1, 4, 8, 8, generator=stream(0, "x")), torch.tensor([[1]])
    answer = at.family.ask(twin.body, noise.bfloat16(), torch.tensor([999.0]), {"hidden": net.text(cond)["hidden"]}, at)
    assert (answer.bfloat16() != answer).any()


def test_layers_to_adapt_may_be_named(rig: Rig) -> None:
    net: Any = tuning(replace(LORA, targets=("attn.to_q",)), 0).twin(rig.net)
    assert [name.rpartition(".")[2] for name, _ in adapters.layers(net)] == ["to_q"] * 3
