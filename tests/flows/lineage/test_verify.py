"""Lineage: digests are DVC's, spans are united, and a tree that does not hold says where."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.lineage import verify
from flows.project.nodes import Node
from flows.tracking import records
from flows.versioning import cache


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def artefact(name, text="x"):
    folder = Path(Node.parse(name).folder)
    (folder / "sub").mkdir(parents=True)
    (folder / "b.txt").write_text(text)
    (folder / "sub" / "a.txt").write_text("y")
    (folder / "sub-2").write_text("")  # sorts between sub and sub/a.txt as text, after it as a path
    return cache.digest(folder)


def record(name, digest, inputs=()):
    node = Node.parse(name)
    sources = {maker: {"artefact": Node.parse(maker).folder, "digest": d, "made_by": maker} for maker, d in inputs}
    content = {"stage": node.stage, "arm": node.arm, "artefact": node.folder, "digest": digest, "inputs": sources}
    records.write(node, content | {"git": {"commit": "c" * 40}, "mlflow": {"run": f"run-{name}"}})


def lock(**digests):
    stages = {name: {"outs": [{"path": Node.parse(name).folder, "md5": d}]} for name, d in digests.items()}
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


def test_digest_is_the_one_that_dvc_records(home):
    digest = artefact("dataset")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "data/dataset"], check=True)
    assert yaml.safe_load(Path("data/dataset.dvc").read_text())["outs"][0]["md5"] == digest


def test_busy_unites_spans_that_overlap():
    spans = [{"start": s, "end": e} for s, e in [(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 1.75)]]
    assert records.busy(spans) == pytest.approx(4.0)
    assert records.busy([]) == 0


def test_a_tree_holds(home):
    first, second = artefact("dataset"), artefact("teacher", "z")
    record("dataset", first)
    record("teacher", second, [("dataset", first)])
    lock(dataset=first, teacher=second)
    assert [(each.depth, each.holds) for each in verify.verify(Node("teacher"))] == [(0, True), (1, True)]


def test_altered_data_is_found(home):
    first, second = artefact("dataset"), artefact("teacher", "z")
    record("dataset", first)
    record("teacher", second, [("dataset", first)])
    lock(dataset=first, teacher=second)
    Path("data/dataset/b.txt").write_text("altered")
    [fault] = [fault for each in verify.verify(Node("teacher")) for fault in each.faults]
    assert "data/dataset holds" in fault


def test_an_input_that_was_made_anew_is_found(home):
    first, second = artefact("dataset"), artefact("teacher", "z")
    record("teacher", second, [("dataset", "0" * 32 + ".dir")])
    record("dataset", first)
    lock(dataset=first, teacher=second)
    faults = [fault for each in verify.verify(Node("teacher")) for fault in each.faults]
    assert faults == ["the reader was made from 00000000"]


def test_sources_name_the_run_that_made_them(home):
    digest = artefact("dataset")
    record("dataset", digest)
    found = records.sources({"dataset": "data/dataset"})
    assert found["dataset"]["mlflow_run"] == "run-dataset"
    assert found["dataset"]["digest"] == digest
    lock(dataset="1" * 32 + ".dir")
    assert records.sources({"dataset": "data/dataset"})["dataset"]["digest"] == digest, "what is there counts"
    lock(dataset=digest)
    shutil.rmtree("data/dataset")
    assert records.sources({"dataset": "data/dataset"})["dataset"]["digest"] == digest, "and is not hashed again"
