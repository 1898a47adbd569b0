"""The same seed gives bitwise the same artefacts whatever the number of workers, and whoever does what first."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from flows.project.nodes import STAGES, Node
from stages.io import artefacts, run
from stages.io.job import Job
from tests.composed import params_of

ROOT = Path(__file__).parents[1]
CHAIN = [Node(stage) for stage in ("dataset", "teacher", "encode", "trajectories", "reflow")]


def silent(_step, _metrics):
    """A sink for those who do not listen; a function of a module, since it travels to the workers."""


def one(job, unit, folder):
    run.run_unit(Job(**job), unit, folder, silent)


def made_by(call, composed, root):
    """Digests of the chain, whose units are done by `call`, a kind of `map`, from the last to the first."""
    digests = {}
    for node in CHAIN:
        job = Job(
            stage=node.stage,
            arm=None,
            seed=4,
            section=node.section(composed),
            inputs={name: str(root / folder) for name, folder in STAGES[node.stage].inputs(composed, None).items()},
        )
        units = run.plan(job)
        folders = [root / "work" / node.stage / unit["id"] for unit in units]
        pairs = list(zip(units, folders, strict=True))[::-1]
        list(call(one, [job.to_json()] * len(units), *zip(*pairs, strict=True)))
        run.finish(job, folders, root / node.folder)
        digests[node.stage] = artefacts.digest(root / node.folder)
    return digests


@pytest.mark.slow
def test_one_worker_and_two_make_the_same_bytes(tmp_path):
    composed = params_of("experiment=smoke", "trajectories.shard_size=64")
    here = made_by(map, composed, tmp_path / "here")
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert made_by(pool.map, composed, tmp_path / "two") == here
