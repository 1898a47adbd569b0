"""A shortened chaos bench: things are killed at random moments, and nothing wrong ever comes out of it."""

import pytest

from benchmarks import chaos

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_what_is_killed_is_made_whole_by_the_next_run():
    little = {"undisturbed_runs": 1, "stages": chaos.STAGES[-1:], "size": 1024}
    trials, _ = chaos.run(["worker", "prefect"], trials=2, seed=7, **little)
    assert all(trial.held for trial in trials), [trial.why for trial in trials]
    assert any(trial.ending != "finished" for trial in trials), "at least one kill must have hit"
