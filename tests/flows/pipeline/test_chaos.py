"""A shortened chaos bench: things are killed at random moments, and nothing wrong ever comes out of it."""

import random

import pytest

from benchmarks import chaos
from benchmarks.clones import Bench

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_what_is_killed_is_made_whole_by_the_next_run(project):
    made = Bench(project.root, None, project.environment(), "DVC_SITE_CACHE_DIR", stages=chaos.STAGES[-1:], size=1024)
    made.prepare(1)
    trials = chaos.trials_of(made, ["worker", "prefect"], random.Random(7))
    assert all(trial.held for trial in trials), [trial.why for trial in trials]
    assert any(trial.ending != "finished" for trial in trials), "at least one kill must have hit"
