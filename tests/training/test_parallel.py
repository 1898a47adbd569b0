"""Slices of a batch, and workers that share them: one model whoever computes it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stages import rl
from stages.core.config import check
from stages.core.ranks import Ranks
from stages.training import checkpoint
from stages.training.parallel import Pairwise
from tests.training import ranked
from tests.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
RESUMED, RESUMED_AT = ("flow, 4 slices", "implicit, 4 slices"), 2
EXACT = [name for name in ranked.CASES if "6 slices" not in name]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What one worker makes, and what two make together, of which this process is one; one case resumes half-way."""
    folder = tmp_path_factory.mktemp("ranks")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers: the bits of a matrix product depend on it
    for name in RESUMED:
        first = ranked.trainer(name)
        for iteration in range(RESUMED_AT):
            first.step(ranked.batch_at(iteration))
        checkpoint.State.of(first).write(folder / "resume" / name)
    other = subprocess.Popen([sys.executable, "-m", "tests.training.ranked", "1", "2", str(folder)], cwd=ROOT)
    try:
        for name in ranked.CASES:
            ranked.train(name, folder / "alone", folder / "none" / name)
        ranked.main(0, 2, folder)
        assert other.wait(PATIENCE_S) == 0
    finally:
        torch.set_num_threads(threads)
        other.kill()
        other.wait()
    return folder


def facts(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_two_workers_leave_bitwise_what_one_leaves(folders, name):
    alone = load_file(folders / "alone" / f"{name}.safetensors")
    for rank in ("rank0", "rank1"):
        theirs = load_file(folders / rank / f"{name}.safetensors")
        assert alone.keys() == theirs.keys()
        assert all(torch.equal(alone[key], theirs[key]) for key in alone)
        assert facts(folders / rank, name)["metrics"] == facts(folders / "alone", name)["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EXACT if name not in RESUMED])
def test_cost_is_counted_over_all_workers(folders, name):
    assert facts(folders / "rank1", name)["cost"] == facts(folders / "alone", name)["cost"]
    assert facts(folders / "alone", name)["cost"]["networks"]["student"]["forward"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", RESUMED)
def test_all_workers_resume_from_the_first_ones_checkpoint(folders, name):
    assert len(facts(folders / "rank1", name)["curve"]) == ranked.ITERATIONS - RESUMED_AT, (
        "only the missing iterations may run"
    )
    assert facts(folders / "rank1", name)["cost"] == facts(folders / "alone", name)["cost"]


@pytest.mark.slow
def test_slices_that_are_no_power_of_two_differ_by_rounding_only(folders):
    """6 slices: the first gradient differs by 5 * 2^-24 of the sum of magnitudes; Adam's first steps amplify that."""
    curves = [facts(folders / who, "flow, 6 slices")["curve"] for who in ("alone", "rank0")]
    gaps = [abs(a["flow/loss"] - b["flow/loss"]) / a["flow/loss"] for a, b in zip(*curves, strict=True)]
    assert gaps[0] == 0, "the same weights, in float64"
    norms = [abs(a["flow/grad_norm"] - b["flow/grad_norm"]) / a["flow/grad_norm"] for a, b in zip(*curves, strict=True)]
    assert norms[0] <= 100 * 5 * 2**-24  # 100: what a sum's terms may be larger than the sum
    assert max(gaps) < 1e-4


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 13])
def test_a_sum_in_pairs_is_the_sum(count):
    terms = [torch.full((2,), float(3**i)) for i in range(count)]
    assert torch.equal(Pairwise.of(terms), torch.stack(terms).sum(dim=0))


def test_a_sum_in_pairs_does_not_depend_on_who_holds_which_block():
    terms = list(torch.randn(8, 50, generator=torch.Generator().manual_seed(0)).mul(10))
    whole = Pairwise.of(terms)
    assert not torch.equal(whole, sum(terms[1:], terms[0])), "the order matters, or this shows nothing"
    for workers in (2, 4, 8):
        size = 8 // workers
        blocks = [Pairwise.of(terms[i : i + size]) for i in range(0, 8, size)]
        assert torch.equal(Pairwise.of(blocks), whole)


def test_a_batch_that_does_not_divide_is_named():
    made = ranked.trainer("flow, 4 slices")
    batch = {key: rows[:30] for key, rows in ranked.batch_at(0).items()}
    with pytest.raises(ValueError, match=r"budget.slices=4 does not divide the batch's rows=30"):
        made.step(batch)


def test_workers_must_share_slices_alike():
    with pytest.raises(ValueError, match="3 workers cannot share 4 slices alike"):
        ranked.trainer("flow, 4 slices", Ranks(0, 3))
    with pytest.raises(ValueError, match="rank 2 of 2"):
        Ranks(2, 2)


def test_a_group_is_never_cut():
    budget = {
        "iterations": 1,
        "ema": 0.0,
        "clip": 1.0,
        "warmup": 0,
        "final_lr": 1.0,
        "precision": "float32",
        "slices": 4,
    }
    sizes = {"prompts_per_iteration": 6, "group_size": 4}
    kept = {
        "init": "data/teacher",
        "teacher": None,
        "rewards": {},
        "sampler": None,
        "tune": {"kind": "full"},
        "stop": None,
        "gallery": None,
    }
    section = {**kept, "budget": budget, **sizes}
    with pytest.raises(ValueError, match=r"budget.slices=4 does not divide prompts_per_iteration=6"):
        check(rl.Common, section, "rl.arms.dgpo")


def test_slices_draw_their_own_numbers():
    def seeds(*ranks):
        made = ranked.trainer("flow, 4 slices", *ranks)
        return [rng.initial_seed() for _, rng in made._slices(ranked.batch_at(0))]

    assert len(set(seeds())) == 4
    assert seeds(Ranks(1, 2)) == seeds()[2:]
