"""MLflow: one run a node under one run a pipeline, written by the driver alone through explicit run ids.

In a pipeline run the pipeline's process is the driver and writes for all of its stages, so that no stage waits for
MLflow; a stage that runs by itself writes its own.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from flows.project.nodes import GROUPS, STAGES, Node
from flows.telemetry import jsonl, reports, system_metrics
from flows.tracking import backend, evaluations, outbox, records, registry
from stages.io.artefacts import read_manifest

EXPERIMENT = "fewstep"
_BATCH = 1000


class Tracker:
    """For those who write. Making one imports MLflow and may create the database: a few seconds.

    Raises Passing, here and later, where the team's server does not answer.
    """

    def __init__(self, experiment: str = EXPERIMENT) -> None:
        self.client, self.experiment = backend.connect(experiment)
        self._lock = threading.Lock()
        self._tails: dict[str, jsonl.Tail] = {}
        self._vitals: dict[str, system_metrics.Summary] = {}

    def send_waiting(self) -> None:
        """Tell of what earlier processes could not, before there is more."""
        for node, run in list(outbox.waiting()):
            self._resend(node, run)

    @backend.speaking()
    def open(self, name: str, parent: str | None, tags: Mapping[str, str]) -> str:
        """A new run's id."""
        head = name.partition("@")[0]
        given = {"mlflow.runName": name, "stage": GROUPS.get(head, head), **tags}
        if parent:
            given["mlflow.parentRunId"] = parent
        run = self.client.create_run(self.experiment, tags=given).info.run_id
        self._vitals[run] = system_metrics.Summary(time.time())
        return run

    @backend.speaking()
    def discard(self, run: str) -> None:
        """Forget a run whose node turned out to be cached."""
        self.client.delete_run(run)

    @backend.speaking()
    def attach(self, run: str, name: str, file: Path) -> None:
        """Keep a copy of `file` with the run, called `name`."""
        self.client.log_text(run, file.read_text(encoding="utf-8"), name)

    @backend.speaking()
    def close(self, run: str, status: str) -> None:
        """End a run: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run, status)

    def stream(self, node: Node, run: str) -> None:
        """Send what the node's units have reported since the last call; what a server does not take goes next time."""
        from mlflow.exceptions import MlflowException

        with suppress(MlflowException):  # `complete` sends it again, and raises
            self._catch_up(node, run, last=False)

    def _catch_up(self, node: Node, run: str, *, last: bool) -> None:
        """Send what is new; the `last` time, all there is."""
        from mlflow.entities import Metric

        with self._lock:
            for unit, file in reports.of(node).items():
                prefix = "" if unit == "all" else f"{unit}/"
                with self._tail(f"{run}:{unit}", file).once() as text:  # what a server does not take is sent again
                    metrics = [
                        Metric(metric_name(prefix + name), value, int(line["time"] * 1000), line["step"])
                        for line in jsonl.parsed(text)
                        for name, value in line["metrics"].items()
                    ]
                    self._send(run, metrics)
                with self._tail(f"{run}:{unit}:pictures", reports.beside(file, "pictures")).once() as text:
                    for line in jsonl.parsed(text):
                        picture, key = reports.picture(line).convert("RGB"), metric_name(prefix + line["name"])
                        self.client.log_image(run, picture, key=key, step=line["step"])
                for line in self._tail(f"{run}:{unit}:system", reports.beside(file, "system")).lines():
                    self._summary(run).add(line)
            until = float("inf") if last else time.time() - system_metrics.BIN_S
            found = self._summary(run).take(until)
            self._send(run, [Metric(name, value, int(at * 1000), step) for name, value, step, at in found])

    def _summary(self, run: str) -> system_metrics.Summary:
        return self._vitals.setdefault(run, system_metrics.Summary(0.0))

    def _send(self, run: str, metrics: Sequence[Any]) -> None:
        for first in range(0, len(metrics), _BATCH):
            self.client.log_batch(run, metrics=metrics[first : first + _BATCH])

    def _tail(self, key: str, file: Path) -> jsonl.Tail:
        """Of the file that may have been moved since; where it was moved just now, the next call reads it."""
        tail = self._tails.setdefault(key, jsonl.Tail(file))
        tail.file = file
        return tail

    @backend.speaking()
    def complete(self, node: Node, run: str) -> None:
        """Everything about a finished node, from its artefact and its lineage; closes the run.

        What could not be told is noted, and told by the next that calls `send_waiting`.
        """
        with outbox.noted(node, run):
            self._tell(node, run)

    def _resend(self, node: Node, run: str) -> None:
        """Tell of a run that an earlier process could not, unless its artefact has been made anew since."""
        record = records.read(node) or {}
        if record.get("mlflow", {}).get("run") == run:
            self.complete(node, run)
        else:
            self.close(run, "KILLED")
            outbox.drop(run)

    def _tell(self, node: Node, run: str) -> None:
        self._catch_up(node, run, last=True)
        record, manifest = records.read(node), read_manifest(Path(node.folder))
        assert record is not None, f"{node.name} finished without a record"
        self._describe(run, record, manifest)
        self._inputs(run, record)
        if node.stage == "evaluate":
            evaluations.log(self.client, self.experiment, run, record)
        if STAGES[node.stage].arms:
            self._model(node, run, record)
        for image in sorted(Path(node.folder).rglob("*.png")):
            self._image(run, image, image.relative_to(node.folder).with_suffix("").as_posix())
        self.client.log_artifact(run, str(node.lineage))
        report = Path(node.folder) / "report.html"
        if report.is_file():
            self.client.log_artifact(run, str(report))
        self.close(run, "FINISHED")

    def _describe(self, run: str, record: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        params = [Param(key, str(value)[:6000]) for key, value in flat(record["parameters"])]
        params.append(Param("seed", str(record["seed"])))
        made = (
            {} if record["stage"] == "evaluate" else manifest.get("metrics", {})
        )  # scores: a run a model, flows/tracking/evaluations
        numbers = made | {
            "seconds": record["seconds"],
            "compute_seconds": record["compute_seconds"],
        }
        metrics = [Metric(metric_name(key), float(value), now, 0) for key, value in numbers.items()]
        tags = {
            "git.commit": record["git"]["commit"] or "unknown",
            "git.dirty": record["git"]["dirty"] if record["git"]["commit"] else "unknown",
            "prefect.flow_run": record["prefect"]["flow_run"],
            "ray.job": record["ray"]["job"],
            "dvc.digest": record["digest"],
            "artefact": record["artefact"],
        } | {f"made_from.{name}": source["mlflow_run"] or "" for name, source in record["inputs"].items()}
        for first in range(0, len(params), 100):
            self.client.log_batch(run, params=params[first : first + 100])
        self.client.log_batch(run, metrics=metrics, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def _inputs(self, run: str, record: Mapping[str, Any]) -> None:
        from mlflow.data.filesystem_dataset_source import FileSystemDatasetSource  # noqa: F401 (registers file sources)
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined] (made at run time)
        from mlflow.entities import DatasetInput, InputTag

        inputs = []
        for name, source in record["inputs"].items():
            where = LocalArtifactDatasetSource(str(Path(source["artefact"]).resolve()))
            dataset = MetaDataset(where, name=source["made_by"], digest=source["digest"])
            inputs.append(DatasetInput(dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", name)]))
        if inputs:
            backend.insist(self.client.log_inputs, run, datasets=inputs)

    def _model(self, node: Node, run: str, record: Mapping[str, Any]) -> None:
        params = {key: str(value)[:250] for key, value in flat(record["parameters"])}
        registry.Registry(self.client).add(node, run, record, params)

    def _image(self, run: str, file: Path, key: str) -> None:
        from PIL import Image

        with Image.open(file) as picture:
            self.client.log_image(run, picture.convert("RGB"), key=key, step=0)


def flat(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and plain values."""
    for key, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def metric_name(name: str) -> str:
    """MLflow takes letters, digits and _ - . / and space everywhere; a colon not on Windows."""
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in name)
