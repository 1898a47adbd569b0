"""Training on some samples of a roll-out: what the others still do, and where there is no such word."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.core.config import check
from stages.core.rng import stream
from stages.policies import POLICIES, awm, crd, g2rpo, nft
from stages.training.kept import All, Ends, Spread
from tests.policies.groups import batch, prepared, slope_of, tiny
from tests.policies.test_awm import CONFIG as AWM
from tests.policies.test_crd import CONFIG as CRD
from tests.policies.test_g2rpo import CONFIG as G2RPO
from tests.policies.test_nft import CONFIG as NFT
from tests.training.test_method_contract import section

ENDS, SPREAD = Ends(name="ends", share=0.5), Spread(name="spread", share_first=0.5, share_last=0.25)
ON_SAMPLES = [(nft, NFT), (awm, AWM), (crd, CRD)]


@pytest.mark.parametrize(("module", "cfg"), ON_SAMPLES, ids=lambda value: getattr(value, "__name__", ""))
def test_all_samples_make_the_advantages_and_those_that_are_kept_the_loss(module: ModuleType, cfg: Any) -> None:
    world = tiny(module, cfg)
    whole, some = (prepared(module, world, replace(cfg, kept=kept)) for kept in (All(name="all"), ENDS))
    order = whole["advantage"].reshape(3, 8).argsort(dim=1)
    rows = torch.cat([order[:, :2], order[:, -2:]], dim=1).sort(dim=1).values + 8 * torch.arange(3)[:, None]
    for name, value in some.items():
        assert torch.equal(value, whole[name] if name == "reward" else whole[name][rows.flatten()]), name
    given = {**whole, **{name: whole[name][rows.flatten()] for name in whole if name != "reward"}}
    assert torch.equal(slope_of(module, world, some, cfg), slope_of(module, world, given, cfg))


@pytest.mark.parametrize(("module", "cfg"), [(nft, NFT), (awm, AWM)], ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize(("progress", "count"), [(0.0, 12), (0.5, 9)])
def test_those_that_spread_most_are_fewer_as_training_goes_on(
    module: ModuleType, cfg: Any, progress: float, count: int
) -> None:
    cfg = replace(cfg, kept=SPREAD)
    world = replace(tiny(module, cfg), progress=progress)
    found = prepared(module, world, cfg)
    advantage = prepared(module, world, replace(cfg, kept=All(name="all")))["advantage"]
    assert len(found["x0"]) == len(found["group"]) == count
    assert len(found["reward"]) == 24
    drawn = [torch.randperm(24, generator=stream(seed, "drawn"))[:count] for seed in range(50)]
    assert found["advantage"].var() > max(advantage[rows].var() for rows in drawn)
    assert slope_of(module, world, found, cfg).isfinite().all()


def test_a_branch_keeps_samples_by_its_own_advantages() -> None:
    cfg = replace(G2RPO, kept=ENDS)
    world = tiny(g2rpo, cfg)
    given = dict(g2rpo.prepare(world, batch(), stream(0, "prepare"), cfg))
    assert given["rows"].shape == (12, len(g2rpo.branches(cfg)))
    assert not torch.equal(given["rows"][:, 0], given["rows"][:, 1])
    for k in g2rpo.branches(cfg):
        kept = torch.zeros(24, dtype=torch.bool).index_fill(0, given["rows"][:, k], True)
        order = given["advantage"][:, k].reshape(3, 8).argsort(dim=1, stable=True)
        assert torch.equal(
            kept.reshape(3, 8).gather(1, order), torch.tensor([1, 1, 0, 0, 0, 0, 1, 1]).bool().expand(3, 8)
        )
        left_out = {**given, "advantage": given["advantage"].clone(), "rows": torch.arange(24)[:, None].expand(24, 4)}
        left_out["advantage"][~kept, k] = 0

        def slope(made: dict[str, Tensor], k: int = k) -> Tensor:
            value = g2rpo.loss(world, made, stream(0, "loss"), cfg, k=k)[0]
            return torch.cat(
                [g.flatten() for g in torch.autograd.grad(value, list(world.nets["student"].parameters()))]
            )

        torch.testing.assert_close(slope(given), 2 * slope(left_out))  # a mean over half as many


def test_a_loss_that_compares_a_group_refuses_groups_of_several_sizes() -> None:
    with pytest.raises(ValueError, match=r"it\.kept\.name: 'spread' is none of all, ends"):
        check(crd.Config, {**section("crd"), "kept": {"name": "spread", "share_first": 1.0, "share_last": 0.5}}, "it")


@pytest.mark.parametrize("name", ["dgpo", "tdm_r1", "diffusion_dpo", "pso", "spo"])
def test_where_it_cannot_apply_there_is_no_such_word(name: str) -> None:
    with pytest.raises(ValueError, match=r"it\.kept: unknown parameter"):
        check(POLICIES[name].Config, {**section(name), "kept": {"name": "all"}}, "it")
