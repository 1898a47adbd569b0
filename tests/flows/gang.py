"""A gang of workers that trains one model, as it can be seen from outside."""

import json

import psutil

from flows.runtime import processes


def reported(clone, arm="teacher"):
    """The last step that the teacher, or an arm, reported, with a checkpoint beside it; 0 before."""
    files = (clone.root / ".fewstep/work" / arm).glob("*/all.jsonl")
    latest = max(files, key=lambda file: file.stat().st_mtime, default=None)  # others' may lie there too
    if latest is None or not (latest.parent / "all" / "resume" / "state.safetensors").is_file():
        return 0
    lines = [line for line in latest.read_text().split("\n")[:-1] if line]
    return json.loads(lines[-1])["step"] if lines else 0


def ranks(clone):
    """Its processes."""
    head = psutil.Process(json.loads((clone.root / ".fewstep/services/ray.json").read_text())["pid"])
    return [each for each in head.children(recursive=True) if "RayTrainWorker" in " ".join(processes.words(each))]
