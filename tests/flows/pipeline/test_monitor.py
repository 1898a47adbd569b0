"""What is said of a stage that runs is what it has done."""

import json

from flows.pipeline import monitor
from flows.project.nodes import Node


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
