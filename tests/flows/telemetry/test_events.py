"""Events, vitals and the timeline: what they tell, that they are bounded, and that they sum up right."""

import errno
import json
import multiprocessing
import os
import platform
import re
from pathlib import Path

import pytest

from flows.cli.main import main
from flows.pipeline import timeline
from flows.project.nodes import STAGES, Node
from flows.telemetry import context, events, jsonl, reports, system_metrics
from flows.tracking import records
from tests.waiting import wait_for

PARAMS = {stage: {} for stage in STAGES} | {"distill": {"arms": {}}, "rl": {"arms": {}}}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEWSTEP_PIPELINE", raising=False)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params").mkdir()
    return tmp_path


def _write(folder, name):
    os.chdir(folder)
    for number in range(50):
        events.write(f"{name} {number}")


def test_processes_write_whole_lines_side_by_side(home):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(home, name)) for name in "ab"]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    lines = events.read()
    assert len(lines) == 100
    assert {line["worker"]["pid"] for line in lines} == {each.pid for each in writers}


def test_a_line_that_a_full_disk_cut_short_does_not_hide_the_others(home):
    events.write("before")
    with events.FILE.open("a") as stream:
        stream.write('{"message": "cut sh')
    events.write("lost with it")
    events.write("after")
    assert [line["message"] for line in events.read()] == ["before", "after"]
    assert jsonl.last(events.FILE)["message"] == "after"


def test_a_full_disk_is_not_told_by_the_log(home, monkeypatch):
    def full(number):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(events.locks, "exclusive", lambda *_: full(errno.ENOSPC))
    events.write("lost")
    monkeypatch.setattr(events.locks, "exclusive", lambda *_: full(errno.EACCES))
    with pytest.raises(PermissionError):
        events.write("not allowed")


def test_the_log_is_bounded(home, monkeypatch):
    monkeypatch.setattr(events, "LIMIT_BYTES", 2000)
    for number in range(200):
        events.write(f"event {number}")
    files = sorted(file.name for file in events.FILE.parent.glob("events.jsonl*"))
    assert files == ["events.jsonl", "events.jsonl.1", "events.jsonl.2", "events.jsonl.3"]
    assert all((events.FILE.parent / name).stat().st_size < 2500 for name in files)
    assert events.read()[-1]["message"] == "event 199"


def test_what_workers_say_is_taken_over_once_with_whose_it_is(home, monkeypatch):
    monkeypatch.setattr(context, "current", lambda: {"pipeline": "pipeline-x", "run": "r", "parent": None})
    file = home / "shard-0.events.jsonl"
    file.write_text(
        json.dumps({"time": 1.0, "level": "info", "unit": "shard-0", "worker": {}, "message": "old"}) + "\n"
    )
    with events.forwarding(Node("distill", "a"), {"shard-0": file, "shard-1": home / "none.events.jsonl"}):
        say = events.spoken(file, "shard-0")
        say("running", "starts", "info")
        say("failed", "failed: no", "error")
    lines = events.read()
    told = [(line["state"], line["message"], line["level"]) for line in lines]
    assert told == [("running", "starts", "info"), ("failed", "failed: no", "error")]
    line = lines[0]
    assert (line["run"], line["stage"], line["arm"], line["unit"]) == ("pipeline-x", "distill", "a", "shard-0")
    assert line["worker"] == {"host": platform.node(), "pid": os.getpid()}


def test_logs_are_for_people(home, capsys):
    tell = events.heard(lambda *_: None)
    tell(Node("teacher"), "running", "")
    tell(Node("distill", "a"), "failed", "no data")
    assert main(["logs"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [re.sub(r"^\S+ \S+ +", "", line) for line in shown] == [
        "teacher              running",
        "distill@a            ERROR failed: no data",
    ]
    assert main(["logs", "distill", "--level", "error"]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert main(["logs", "teacher", "--level", "error"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["logs", "nothing"]) == 1
    assert "no stage is called 'nothing'" in capsys.readouterr().err


def test_a_short_unit_gets_a_sample(home):
    file = home / "u.system.jsonl"
    with system_metrics.sampled(file, "cpu"):
        sum(range(10**6))
    [line] = map(json.loads, file.read_text().splitlines())
    assert line["sample"]["memory_mib"] > 1
    assert line["worker"] == f"{platform.node()}:{os.getpid()}"


def test_a_long_unit_gets_several_even_if_it_fails(home, monkeypatch):
    monkeypatch.setattr(system_metrics, "INTERVAL_S", 0.05)
    file = home / "u.system.jsonl"

    def several():
        sum(range(10**6))  # it is busy
        return file.is_file() and len(file.read_text().splitlines()) > 3

    def unit():
        with system_metrics.sampled(file, "cpu"):
            wait_for(several)
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        unit()
    samples = [json.loads(line)["sample"] for line in file.read_text().splitlines()]
    assert all(sample["cpu_percent"] >= 0 for sample in samples)
    assert max(sample["cpu_percent"] for sample in samples) > 0, "it was busy"


def test_samples_add_up_over_workers_and_average_within_one():
    summary = system_metrics.Summary(began=100.0)
    for at, worker, percent in [
        (101, "a", 50.0),
        (102, "a", 100.0),
        (103, "b", 20.0),
        (107, "b", 30.0),
        (99, "b", 999.0),
    ]:
        summary.add({"time": at, "worker": worker, "sample": {"cpu_percent": percent, "gpu_0_percent": percent}})
    first = {name: (value, step) for name, value, step, _ in summary.take(until=106.0)}
    assert first == {
        "system/cpu_percent": (95.0, 0),
        "system/gpu_0_percent": (75.0, 0),
        "system/workers": (2.0, 0),
    }
    rest = {name: (value, step) for name, value, step, _ in summary.take(float("inf"))}
    assert rest["system/cpu_percent"] == (30.0, 5)
    assert summary.take(float("inf")) == []


def test_lines_survive_the_work_folder(home):
    work = home / "work"
    work.mkdir()
    report = work / "guidance.w1.5.jsonl"
    report.write_text("{}\n")
    reports.beside(report, "system").write_text("s\n")
    reports.announce(Node("evaluate"), {"guidance.w1.5": report})
    reports.keep(Node("evaluate"), work)
    kept = reports.of(Node("evaluate"))["guidance.w1.5"]
    assert kept.read_text() == "{}\n"
    assert reports.beside(kept, "system").read_text() == "s\n"
    assert list(work.iterdir()) == []
    reports.forget(Node("evaluate"))
    assert not kept.exists()


def span(task, unit, start, end):
    return {"task": task, "unit": unit, "start": start, "end": end, "host": "h", "pid": 1}


def test_every_second_of_a_stage_is_accounted_for(home):
    spans = [span("plan", "plan", 112, 113), span("work", "u<0>", 114, 116), span("work", "u1", 115, 118)]
    spans.append(span("finish", "finish", 118, 119))
    records.write(Node("teacher"), {"spans": spans})
    times = {
        "started": 100.0, "finished": 120.0, "status": "FINISHED",
        "stages": {
            "dataset": {"started": 101.0, "finished": 108.0, "ran": True, "code": 1},
            "teacher": {"started": 110.0, "finished": 120.0, "ran": True, "code": 0},
        },
    }  # fmt: skip
    dataset, teacher = timeline.rows(PARAMS, times)
    assert [(bar.kind, bar.start, bar.end) for bar in dataset.bars] == [("slot", 0, 1), ("failed", 1, 8)]
    assert {kind: teacher.total(kind) for kind in timeline.KINDS} == {
        "inputs": 8.0, "slot": 2.0, "overhead": 2.0 + 1.0 + 1.0, "computing": 1.0 + 5.0, "failed": 0.0
    }  # fmt: skip
    assert [(unit.submitted, unit.start, unit.end) for unit in teacher.units] == [(13, 14, 16), (13, 15, 18)]
    pages = timeline.write("pipeline-x", PARAMS, times)
    text = pages["timeline.html"].read_text()
    assert "u&lt;0&gt; on h:1: 2.00 s, from 14.0 s on" in text
    assert list(pages) == ["timeline.html"], "no evaluation, no report"


def test_the_report_itself_stays_as_it_is(home):
    report = Path("data/evaluate/report.html")
    report.parent.mkdir(parents=True)
    report.write_text("<html><body><p>r</p></body></html>\n")
    records.write(Node("evaluate"), {"spans": [span("work", "u", 1.5, 2.0)]})
    stages = {"evaluate": {"started": 1.0, "finished": 3.0, "ran": True, "code": 0}}
    times = {"started": 0.0, "finished": 3.0, "status": "FINISHED", "stages": stages}
    pages = timeline.write("pipeline-x", PARAMS, times)
    assert report.read_text() == "<html><body><p>r</p></body></html>\n"
    copy = pages["report.html"].read_text()
    assert copy.index("<p>r</p>") < copy.index("What waited for what") < copy.index("</body>")


@pytest.mark.parametrize(("fault", "told"), [(ValueError, "no"), (RuntimeError, r"no (traceback: {})")])
def test_a_workers_traceback_is_kept_and_named_unless_the_input_is_at_fault(tmp_path, monkeypatch, fault, told):
    from flows.pipeline import stage

    monkeypatch.chdir(tmp_path)
    error = fault("no")
    error.add_note("Traceback of a worker")
    stage._keep_trace(Node("teacher"), error)
    file = Path(".fewstep/logs/teacher.traceback")
    assert file.read_text() == "Traceback of a worker"
    assert str(error) == told.format(file)
