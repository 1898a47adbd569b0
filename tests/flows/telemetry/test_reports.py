"""The lines that units report reach whoever follows, to the last one."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from flows.project.nodes import Node
from flows.telemetry import jsonl, reports
from flows.tracking import outbox

NODE = Node("distill", "tdm1")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".fewstep").mkdir()
    return tmp_path


def test_reports_outlive_the_work_folder(home):
    work = home / "work"
    work.mkdir()
    files = {unit: work / f"{unit}.jsonl" for unit in ("all", "part.2", "silent")}
    for unit in ("all", "part.2"):
        files[unit].write_text(json.dumps({"unit": unit}) + "\n")
    reports.announce(NODE, files)
    reports.keep(NODE, work)
    shutil.rmtree(work)
    assert {unit: jsonl.last(file) for unit, file in reports.of(NODE).items()} == {
        "all": {"unit": "all"},
        "part.2": {"unit": "part.2"},
        "silent": None,
    }
    kept = list(map(Path, reports.of(NODE).values()))
    reports.forget(NODE)
    assert not reports.of(NODE)
    assert not any(file.exists() for file in kept)


def test_a_picture_comes_out_as_it_was_shown(home):
    shades = Image.effect_noise((9, 7), 50)
    for step in (0, 20):
        reports.painter(home / "all.jsonl")(step, "gallery", shades)
    lines = jsonl.Tail(reports.beside(home / "all.jsonl", "pictures")).lines()
    assert [(line["step"], line["name"]) for line in lines] == [(0, "gallery"), (20, "gallery")]
    assert all(reports.picture(line).tobytes() == shades.tobytes() for line in lines)
    assert not (home / "all.jsonl").exists(), "who counts progress is not bothered"


def test_a_full_disk_leaves_what_was_announced_before(home, monkeypatch):
    reports.announce(NODE, {"all": home / "all.jsonl"})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        reports.announce(NODE, {"all": home / "all.jsonl", "more": home / "more.jsonl"})
    assert list(reports.of(NODE)) == ["all"]


def test_what_is_not_told_stays_noted_and_is_nobodys_while_it_is_being_told(home):
    def tell():
        with outbox.noted(NODE, "run1"):
            assert list(outbox.waiting()) == []
            raise RuntimeError("the server is down")

    with pytest.raises(RuntimeError, match="down"):
        tell()
    assert list(outbox.waiting()) == [(NODE, "run1")]
    with outbox.noted(NODE, "run1"):
        pass
    assert list(outbox.waiting()) == []
