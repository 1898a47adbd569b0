"""A project's folder with artefacts, records, a lock and DVC's cache, made by hand: quick, and easily broken."""

import atexit
import functools
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from flows.project.nodes import Node
from flows.tracking import records
from flows.versioning import cache


@functools.cache
def _initialised():
    folder = tempfile.mkdtemp(prefix="fewstep-dvc-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=folder, check=True)
    return Path(folder)


def begin():
    """DVC in the working folder; what an earlier test learned of its cache is forgotten."""
    shutil.copytree(_initialised(), ".", dirs_exist_ok=True)
    cache.folder.cache_clear()


def make(name, text, made_from=(), run=None, **facts):
    """An artefact whose payload is `text`, with record and lock entry and in the cache; its record."""
    node = Node.parse(name)
    folder = Path(node.folder)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "model").mkdir(parents=True)
    (folder / "payload").write_text(text)
    (folder / "model" / "weights").write_text(f"weights of {text}")
    (folder / "manifest.json").write_text(json.dumps({"schema": 1, "metrics": {}}))
    digest = cache.digest(folder)
    _store(folder, digest)
    inputs = {each["name"]: source(each["record"]) for each in map(_named, made_from)}
    record = {
        "stage": node.stage, "arm": node.arm, "artefact": node.folder, "digest": digest, "inputs": inputs, "seed": 0,
        "parameters": {}, "git": {"commit": "c" * 40, "dirty": False}, "mlflow": {"run": run, "parent": None},
        "prefect": {"flow_run": "f"}, "ray": {"job": "j"}, "machine": records.machine(), "seconds": 1.0,
        "compute_seconds": 0.5, "spans": [], **facts,
    }  # fmt: skip
    records.write(node, record)
    lock = yaml.safe_load(Path("dvc.lock").read_text()) if Path("dvc.lock").is_file() else {"stages": {}}
    lock["stages"][name] = {"cmd": "x", "outs": [{"path": node.folder, "hash": "md5", "md5": digest}]}
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0"} | lock))
    return record


def source(record):
    """A record as one of another's inputs."""
    name, run = records.name_of(record), record["mlflow"]["run"]
    return {"artefact": record["artefact"], "digest": record["digest"], "made_by": name, "mlflow_run": run}


def _named(record):
    return {"name": "/".join(filter(None, [record["stage"], record["arm"]])), "record": record}


def _store(folder, digest):
    listed = [{"md5": md5, "relpath": path} for path, md5 in cache.files(folder).items()]
    for entry in listed:
        _put(entry["md5"], (folder / entry["relpath"]).read_bytes())
    _put(digest, json.dumps(listed, sort_keys=True).encode())


def _put(digest, content):
    file = cache.stored(digest)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
