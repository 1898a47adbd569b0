"""Every version of an artefact that anybody recorded: today's in data/lineage, older ones in MLflow."""

import json
import os
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

from flows.project.nodes import LINEAGE, Node
from flows.runtime import addresses
from flows.tracking import backend, records, tracker
from flows.tracking.records import Record


class History:
    """Records by run, by digest and by maker. MLflow is asked only for what data/lineage does not have."""

    def __init__(self) -> None:
        self._read: dict[str, Record | None] = {}

    @cached_property
    def tracker(self) -> tracker.Tracker | None:
        """The MLflow store; None where nothing was ever tracked."""
        there = os.environ.get(addresses.MLFLOW) or backend.FILE.is_file()
        return tracker.Tracker() if there else None

    @cached_property
    def today(self) -> tuple[Record, ...]:
        """What data/lineage holds."""
        files = sorted(LINEAGE.glob("*.json")) if LINEAGE.is_dir() else []
        return tuple(json.loads(file.read_text(encoding="utf-8")) for file in files)

    def of_run(self, run: str) -> Record | None:
        """The record that MLflow run `run` left: a stage's own, or for a scored model's run that of its evaluation."""
        if run not in self._read:
            own = next((record for record in self.today if record["mlflow"].get("run") == run), None)
            self._read[run] = own or self._downloaded(run)
        return self._read[run]

    def of_digest(self, beginning: str) -> list[Record]:
        """Records of the versions whose digest begins so, newest first, each digest once."""
        found = {r["digest"]: r for r in self.today if r["digest"].startswith(beginning)}
        for run in self._search(f"tags.`dvc.digest` LIKE '{beginning}%'"):
            if run.data.tags["dvc.digest"] not in found:
                record = self.of_run(run.info.run_id)
                if record:
                    found[record["digest"]] = record
        return list(found.values())

    def versions(self, node: Node) -> list[Record]:
        """Every known version of what `node` makes, today's first."""
        found = {r["digest"]: r for r in self.today if records.name_of(r) == node.name}
        for run in self._search(f"tags.artefact = '{node.folder}'"):
            if run.data.tags.get("dvc.digest") not in found:
                record = self.of_run(run.info.run_id)
                if record:
                    found[record["digest"]] = record
        return list(found.values())

    def find(self, maker: Node, digest: str | None, run: str | None) -> Record | None:
        """As `lineage.Lookup` wants it."""
        for record in self.today:
            if records.name_of(record) == maker.name and record["digest"] == digest:
                return record
        made = self.of_run(run) if run else None
        if made and made["digest"] == digest:
            return made
        return next(iter(self.of_digest(digest)), None) if digest else None

    def _search(self, words: str) -> list[Any]:
        if self.tracker is None:
            return []
        return list(self.tracker.client.search_runs([self.tracker.experiment], words, max_results=200))

    def _downloaded(self, run: str) -> Record | None:
        from mlflow.exceptions import MlflowException

        if self.tracker is None:
            return None
        client = self.tracker.client
        try:
            tags = client.get_run(run).data.tags
        except MlflowException:
            return None
        if "eval.model" in tags:
            return self.of_run(tags["mlflow.parentRunId"])
        with tempfile.TemporaryDirectory() as folder:
            try:
                file = client.download_artifacts(run, f"{tags.get('mlflow.runName')}.json", folder)
                return json.loads(Path(file).read_text(encoding="utf-8"))
            except (MlflowException, OSError):  # a run that failed, or the pipeline's own, has none
                return None
