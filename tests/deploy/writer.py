"""What a finished stage has MLflow know, by the pipeline's own tracker, in a project of its own: for many at once.

python -m tests.deploy.writer <folder> <number>            prints the run's id
python -m tests.deploy.writer <folder> <number> <file>     before the end of it, waits for the file
python -m tests.deploy.writer <folder> again               nothing of its own: only what an earlier one could not send
"""

import sys
from pathlib import Path

STEPS = 300
WRITERS = 8
PARAMETERS = {"budget": {"iterations": STEPS, "batch": 8}, "method": {"name": "tdm", "lr": 0.5}}


def main(folder: Path, number: int, gate: Path | None = None) -> None:
    _settle(folder)

    import json
    import time

    from flows.project.nodes import Node
    from flows.runtime import environment
    from flows.telemetry import reports
    from flows.tracking.tracker import Tracker

    node = Node("distill", "tdm1")
    tracker = Tracker()
    run = tracker.open(node.name, None, {"writer": str(number)})
    _artefact(node, number, run)
    file = environment.HOME / "units.jsonl"
    reports.announce(node, {"all": file})
    with file.open("w") as stream:
        for step in range(STEPS):
            metrics = {"loss": step / 7 + number, "grad_norm": 1 / (step + 1)}
            stream.write(json.dumps({"step": step, "time": time.time(), "metrics": metrics}) + "\n")
            if step % 100 == 50:
                stream.flush()
                tracker.stream(node, run)
    sys.stdout.write(f"{run}\n")
    sys.stdout.flush()
    while gate is not None and not gate.exists():
        time.sleep(0.05)
    tracker.complete(node, run)


def again(folder: Path) -> None:
    _settle(folder)

    from flows.tracking.tracker import Tracker

    Tracker().send_waiting()


def _settle(folder: Path) -> None:
    from flows.runtime import environment

    (folder / "params").mkdir(parents=True, exist_ok=True)
    (folder / "dvc.yaml").touch()
    environment.settle(folder)


def _artefact(node, number, run):
    import json
    import shutil

    from PIL import Image

    from stages.io import artefacts

    shutil.rmtree(node.folder, ignore_errors=True)
    build = Path("build")
    (build / "model").mkdir(parents=True)
    Image.new("RGB", (16, 16), (number, 0, 0)).save(build / "samples.png")
    (build / "report.html").write_text(f"<p>report {number}")
    Path(node.folder).parent.mkdir(parents=True, exist_ok=True)
    artefacts.commit(build, Path(node.folder), metrics={"score": number / 8})
    teacher = {"artefact": "data/teacher", "digest": "0" * 32 + ".dir", "made_by": "teacher", "mlflow_run": None}
    record = {"stage": node.stage, "arm": node.arm, "artefact": node.folder, "digest": f"{number + 1:032x}.dir"}
    record |= {"inputs": {"teacher": teacher}, "seed": number, "parameters": PARAMETERS}
    record |= {
        "git": {"commit": "c", "dirty": False},
        "prefect": {"flow_run": "f"},
        "ray": {"job": "j"},
        "mlflow": {"run": run},
    }
    record |= {"seconds": 2.0, "compute_seconds": 1.0}
    node.lineage.parent.mkdir(parents=True, exist_ok=True)
    node.lineage.write_text(json.dumps(record))


if __name__ == "__main__":
    where = Path(sys.argv[1]).resolve()
    if sys.argv[2] == "again":
        again(where)
    else:
        main(where, int(sys.argv[2]), *map(Path, sys.argv[3:]))
