"""What is said of a stage that runs is what it has done."""

import json
from types import SimpleNamespace

import pytest
import ray

from flows.pipeline import monitor
from flows.project.nodes import Node
from flows.project.resources import Compute
from tests.flows.compute import COMPUTE


def test_a_trainings_last_report_is_all_of_it(tmp_path, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(monitor, "_SHOW_S", 0.0)
    monkeypatch.setattr(monitor, "create_progress_artifact", lambda share, **_: shown.append(share))
    display = monitor.Progress(Node("teacher"), {"budget": {"iterations": 500}})
    file = tmp_path / "all.jsonl"
    display.show({"all": file}, 0)
    for step in (250, 500):
        with file.open("a") as stream:
            stream.write(json.dumps({"step": step, "time": 0.0, "metrics": {}}) + "\n")
        display.show({"all": file}, 0)
    assert capsys.readouterr().out.splitlines() == [
        "teacher: 0 %",
        "teacher: 50 %, step 250 of 500",
        "teacher: 100 %, step 500 of 500",
    ]
    assert shown == [0.0, 50.0, 100.0]


@pytest.mark.parametrize("fault", [None, ValueError("no")])
def test_a_unit_that_has_ended_leaves_its_place_before_the_next_ends(monkeypatch, fault):
    """For which the next may be waiting."""
    left, rounds = [], [["b", "c"], ["b", "c"], ["b"], []]

    def looked(pending, **_):
        assert left == [name for name in "abc" if name not in pending]
        return [], rounds.pop(0)

    def result(**_):
        if fault:
            raise fault
        return {}

    monkeypatch.setattr(ray, "wait", looked)
    monkeypatch.setattr(monitor.channel, "abandoned", lambda: False)
    futures = [SimpleNamespace(wrapped_future=name, result=result) for name in "abc"]
    leave = [lambda name=name: left.append(name) or left.sort() for name in "abc"]
    compute = Compute.of({"compute": COMPUTE})
    if fault:
        with pytest.raises(ValueError, match="no"):
            monitor.gather(futures, compute, {}, leave=leave)
    else:
        assert monitor.gather(futures, compute, {}, leave=leave) == [{}] * 3
    assert left == ["a", "b", "c"]
