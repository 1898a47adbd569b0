"""Every version of an artefact that anybody recorded: today's in data/lineage, older ones in MLflow."""

import json
import tempfile
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from flows.project.nodes import LINEAGE, Node
from flows.tracking import backend, evaluations, records, tracker
from flows.tracking.records import Record


class History:
    """Records by run, by digest and by maker. MLflow is asked only for what data/lineage does not have."""

    def __init__(self) -> None:
        self._read: dict[str, Record | None] = {}

    @cached_property
    def store(self) -> backend.Store | None:
        """MLflow's, to read from; None where nothing was ever tracked."""
        return backend.look(tracker.EXPERIMENT)

    @cached_property
    def today(self) -> tuple[Record, ...]:
        """What data/lineage holds."""
        return tuple(json.loads(file.read_text(encoding="utf-8")) for file in sorted(LINEAGE.glob("*.json")))

    def of_run(self, run: str) -> Record | None:
        """The record that MLflow run `run` left: a stage's own, or for a scored model's run that of its evaluation."""
        if run not in self._read:
            own = next((record for record in self.today if record["mlflow"].get("run") == run), None)
            self._read[run] = own or self._downloaded(run)
        return self._read[run]

    def of_digest(self, beginning: str) -> list[Record]:
        """Records of the versions whose digest begins so, newest first, each digest once."""
        here = (record for record in self.today if record["digest"].startswith(beginning))
        return self._versions(here, f"tags.`dvc.digest` LIKE '{beginning}%'")

    def versions(self, node: Node) -> list[Record]:
        """Every known version of what `node` makes, today's first."""
        here = (record for record in self.today if records.name_of(record) == node.name)
        return self._versions(here, f"tags.artefact = '{node.folder}'")

    def _versions(self, here: Iterable[Record], words: str) -> list[Record]:
        """Those `here`, and those of the runs that MLflow finds by `words`."""
        found = {record["digest"]: record for record in here}
        for run in self._search(words):
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
        if self.store is None:
            return []
        with backend.speaking():
            return list(backend.every(self.store.client.search_runs, [self.store.experiment], words))

    def _downloaded(self, run: str) -> Record | None:
        if self.store is None:
            return None
        with backend.speaking():
            tags = self._tags(run)
            if tags is None:
                return None
            if evaluations.MODEL in tags:
                return self.of_run(tags["mlflow.parentRunId"])
            client, name = self.store.client, f"{tags.get('mlflow.runName')}.json"
            if name not in {each.path for each in client.list_artifacts(run)}:
                return None  # it failed, or is the pipeline's own
            with tempfile.TemporaryDirectory() as folder:
                return json.loads(Path(client.download_artifacts(run, name, folder)).read_text(encoding="utf-8"))

    def _tags(self, run: str) -> Mapping[str, str] | None:
        """Of MLflow's run, None if MLflow knows of no such run."""
        from mlflow.exceptions import MlflowException

        assert self.store is not None
        try:
            return self.store.client.get_run(run).data.tags
        except MlflowException as error:
            if backend.is_missing(error):
                return None
            raise
