"""Networks whose weights workers hold in parts learn what whole ones learn, by every method that can."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from stages.core.ranks import Ranks
from stages.policies import direct
from stages.training import checkpoint, shards
from stages.training.method import takes_whole
from stages.training.parallel import Agreed, Team, heard
from stages.training.roles import FULL, Parted
from stages.training.tune import Sharded, learns, tuning
from tests.training import parted, ranked
from tests.training.test_method_contract import MODULES, shipped
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
RESUMED, RESUMED_AT = "tdm", 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What one worker makes of every case, and what two processes make together."""
    return together(tmp_path_factory.mktemp("parts"), [name for name in parted.CASES if name != RESUMED])


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """The same of one case, that resumes from one worker's state."""
    folder, first = tmp_path_factory.mktemp("resumed"), parted.trainer(RESUMED)
    for _ in range(RESUMED_AT):
        first.step(parted.batch_at(RESUMED))
    checkpoint.State.of(first).write(folder / "resume" / "0" / RESUMED)
    return together(folder, [RESUMED])


def together(folder, names):
    command = [sys.executable, "-m", "tests.training.parted"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [*command, rank, "2", str(folder), *names], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in "01"
    ]
    try:
        for name in names:
            parted.train(name, folder / "alone", folder / "none" / name)
        for process in both:
            _, said = process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0, said
    finally:
        for process in both:
            process.kill()
    return folder


def told(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in parted.CASES if name != RESUMED])
def test_two_workers_with_parts_learn_what_one_learns(folder, name):
    alone, ours = told(folder / "alone", name), told(folder / "rank0", name)
    first = alone["curve"][0]
    assert ours["curve"][0] == pytest.approx(first, rel=2e-5, abs=2e-5), "what the first iteration reports"
    assert len(ours["curve"]) == parted.ITERATIONS
    assert ours["cost"] == alone["cost"]
    for rank in ("rank0", "rank1"):
        weights, theirs = (load_file(folder / who / f"{name}.safetensors") for who in ("alone", rank))
        assert weights.keys() == theirs.keys()
        assert max((weights[key] - theirs[key]).abs().max() for key in weights) < 2e-6, f"{rank}'s are whole"


@pytest.mark.slow
def test_they_go_on_from_the_state_of_one_worker(resumed):
    assert len(told(resumed / "rank1", RESUMED)["curve"]) == parted.ITERATIONS - RESUMED_AT
    weights, theirs = (load_file(resumed / who / f"{RESUMED}.safetensors") for who in ("alone", "rank0"))
    assert max((weights[key] - theirs[key]).abs().max() for key in weights) < 2e-6


@pytest.fixture
def group(tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_a_network_in_parts_is_gathered_to_what_it_was(group):
    net = ranked.network()
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    empty = shards.hollow(net)
    assert all(p.is_meta for p in empty.parameters())
    assert not any(p.is_meta for p in net.parameters())
    shards.split(net, "cpu")
    assert all(hasattr(p, "full_tensor") for p in net.parameters())
    found = shards.filled(empty, net).state_dict()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    (name, tensor), *_ = net.state_dict().items()
    assert torch.equal(shards.whole(shards.part(weights[name] + 1, tensor)), weights[name] + 1)


def test_what_is_read_after_an_update_is_the_update(group):
    """A network that is only ever called without gradient gathers its weights anew in each call."""
    net, given = shards.split(ranked.network(), "cpu"), (torch.ones(2, 1, 4, 4), torch.ones(2), torch.ones(2, 1).long())
    with torch.no_grad():
        before = net(*given)
        for p in net.parameters():
            p.add_(0.1)
        assert not torch.equal(before, net(*given))


class Mixed(nn.Module):
    """A block that holds float32 weights itself, beside layers in bfloat16 and a norm in float32, as Wan's does."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.ones(4))
        self.layers = nn.ModuleList([nn.Linear(4, 4).bfloat16(), nn.Linear(4, 4).bfloat16()])
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        first, second = self.layers
        return x + (self.norm(second(first(x).tanh()).float()) * self.table).bfloat16()


def test_weights_of_several_types_within_a_block_are_held_in_parts(group):
    whole = nn.Sequential(nn.ModuleList([Mixed(), Mixed()]), nn.Linear(4, 4).bfloat16())
    whole.forward = lambda x: whole[1](whole[0][1](whole[0][0](x)))
    parts = copy.deepcopy(whole)
    parts.forward = lambda x: parts[1](parts[0][1](parts[0][0](x)))
    x = torch.arange(8, dtype=torch.bfloat16).view(2, 4) / 8
    for net in (whole, shards.split(parts, "cpu")):
        net(x).float().square().sum().backward()
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        assert torch.equal(shards.whole(ours.grad), theirs.grad)


def test_weights_of_several_types_are_held_in_parts(group):
    net = nn.Sequential(nn.Linear(4, 4).bfloat16(), nn.Linear(4, 4).bfloat16(), nn.LayerNorm(4))
    net[2].register_forward_pre_hook(lambda _layer, inputs: (inputs[0].float(),))
    out = shards.split(net, "cpu")(torch.ones(2, 4, dtype=torch.bfloat16))
    out.sum().backward()
    assert {p.grad.dtype for p in net.parameters()} == {torch.bfloat16, torch.float32}


def test_all_slices_take_the_first_ones_draw():
    agreed = Agreed(Team(Ranks(0, 1), "cpu"))
    agreed.begin()
    assert [agreed(3), agreed(1)] == [3, 1]
    agreed.next()
    assert [agreed(2), agreed(2)] == [3, 1]
    agreed.begin()
    assert agreed(2) == 2


def test_a_worker_that_is_lost_in_the_midst_of_a_call_is_a_lost_connection():
    with pytest.raises(ConnectionError, match="lost the other workers of this training"), heard():
        raise RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer")
    with pytest.raises(RuntimeError, match="shapes"), heard():
        raise RuntimeError("shapes do not fit")


def test_one_worker_alone_holds_networks_whole():
    assert not parted.trainer("kd").in_parts
    assert tuning(Sharded(kind="sharded", checkpointing=False), 0) == Parted()
    assert (Parted().in_parts, FULL.in_parts) == (True, False)


def test_methods_that_need_whole_networks_are_refused():
    sharded = Sharded(kind="sharded", checkpointing=False)
    refused = [name for name in MODULES if takes_whole(MODULES[name], shipped(name))]
    assert refused == ["nitrofusion", "implicit_diffusion", "reward_instruct"]
    for name in refused:
        with pytest.raises(ValueError, match=rf"a\.tune\.kind=sharded: {name}, set so, needs its networks whole"):
            learns(sharded, "a", MODULES[name], shipped(name))
    with pytest.raises(ValueError, match="direct, set so"):
        learns(sharded, "a", direct, replace(shipped("direct"), gradient="discrete"))
    with pytest.raises(ValueError, match="each of num_students=2 is asked for its own prompts"):
        learns(sharded, "a", MODULES["dmd2"], shipped("dmd2"), 2)
    learns(sharded, "a", MODULES["dmd2"], shipped("dmd2"))
