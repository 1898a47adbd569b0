"""Encoders on a real Ray: a row is what a table would have, whoever dies."""

import pytest
import torch

from flows.project.resources import READING, Compute
from flows.workers import encoders
from stages.core.spec import even
from stages.io.job import Job
from stages.models import TextTable, export, lookup
from stages.models.pretrained import PipelineText
from stages.models.table import Batches, Index
from tests.flows.compute import COMPUTE
from tests.models.families import tiny
from tests.waiting import wait_for


def compute(table, **changes):
    told = COMPUTE | {"encoders": COMPUTE["encoders"] | changes}
    return Compute.of({"compute": told, "encode": {"table": table}})


def test_encoders_are_for_units_that_look_prompts_up_in_no_table():
    assert {stage for stage in READING if encoders.bench(compute("on_demand"), stage).count} == {*READING}
    bench = encoders.bench(compute("on_demand", workers=2), "reflow")
    assert (bench.beside({"id": "straightness"}).count, bench.beside({"id": "s", "prompts": False}).count) == (2, 0)
    assert encoders.bench(compute("stored"), "rl").count == 0
    assert encoders.bench(compute("on_demand"), "encode").count == 0


@pytest.fixture
def made(tmp_path):
    """The job of a unit, and the table that it has not."""
    at = export.found(str(tiny.saved("sd15", tmp_path / "checkpoint")), tiny.options("sd15"))
    export.imported(tmp_path / "model", at, even(2), copied=False)
    export.encoders(tmp_path / "model", tmp_path / "encode" / lookup.ENCODERS)
    prompts = ["", *tiny.PROMPTS]
    stored = TextTable(prompts, PipelineText(at, "cpu", 1).encode(prompts))
    index = Index(prompts=prompts, length=tiny.LENGTH, batches=Batches(shard_size=4096, batch_size=1))
    index.write(tmp_path / "encode")
    return Job(stage="distill", arm="a", seed=0, section={}, inputs={"encode": str(tmp_path / "encode")}), stored


@pytest.mark.integration
@pytest.mark.slow
def test_rows_are_the_tables_even_if_an_encoder_dies(living, made):
    job, stored = made
    bench = encoders.bench(compute("on_demand", workers=2), "distill")
    with encoders.seated(bench, job.to_json(), 1) as (encode, nodes):
        assert len(nodes) == 2
        for killed in (False, True):
            if killed:
                for each in living("Encoder"):
                    each.kill()
            asked = lookup.table_of(job.input("encode"), held=0, encode=encode)  # which keeps nothing itself
            for cond in (torch.tensor([[2], [0], [3]]), torch.tensor([[1]])):
                assert torch.equal(asked(cond)["hidden"], stored(cond)["hidden"])
    wait_for(lambda: not living("Encoder"))
