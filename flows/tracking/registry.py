"""MLflow's registry of students: every new version is the `candidate`; a gate decides who becomes `champion`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.project.nodes import STAGES, Node
from flows.tracking import backend
from stages.core.messages import brief
from stages.io.artefacts import read_manifest

CANDIDATE, CHAMPION = "candidate", "champion"
_VERSION = re.compile(r"(?:models:/)?(?P<name>[^/@]+)(?:/(?P<number>\d+)|@(?P<alias>[\w-]+))")


@dataclass(frozen=True)
class Version:
    """One version of a registered student."""

    name: str
    number: str
    run: str
    digest: str
    aliases: tuple[str, ...]

    @property
    def student(self) -> str:
        """The name of the node that makes it: distill@tdm1."""
        return student_of(self.name)


def model_name(node: Node) -> str:
    """What a student is called in the registry, where @ has a meaning of its own."""
    return node.name.replace("@", "-", 1)


def student_of(name: str) -> str:
    """The other way; ValueError if no stage makes such models."""
    stage, _, arm = name.partition("-")
    if arm and stage in STAGES and STAGES[stage].arms:
        return Node(stage, arm).name
    raise ValueError(f"{brief(name)}: not a registered student; they are called distill-<arm> and rl-<arm>")


def is_version(text: str) -> bool:
    """Whether `text` has the form of a version's name: distill-tdm1/3, models:/distill-tdm1@champion."""
    match = _VERSION.fullmatch(text)
    if match is None:
        return False
    stage, dash, _ = match["name"].partition("-")
    return text.startswith("models:/") or bool(dash and stage in STAGES and STAGES[stage].arms)


class Registry:
    """What the registry knows, and what may be changed in it."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def version(self, text: str) -> Version:
        """The version that `text` names; ValueError says which there are."""
        match = _VERSION.fullmatch(text)
        if match is None:
            raise ValueError(f"{text}: name a version as distill-tdm1/3 or distill-tdm1@champion")
        name, number, alias = match["name"], match["number"], match["alias"]
        student_of(name)
        there = self.versions(name)
        for each in there:
            if each.number == number or (alias and alias in each.aliases):
                return each
        known = ", ".join(each.number + "".join(f" @{a}" for a in each.aliases) for each in there) or "none"
        raise ValueError(f"{text}: no such version of {name}; there are: {known}")

    def versions(self, name: str) -> list[Version]:
        """Of one student, newest first."""
        found = list(backend.every(self._client.search_model_versions, f"name = '{name}'"))
        aliases: dict[str, list[str]] = {}
        if found:
            for alias, number in self._client.get_registered_model(name).aliases.items():
                aliases.setdefault(str(number), []).append(alias)
        made = []
        for each in found:
            number, digest = str(each.version), each.tags.get("dvc.digest", "")
            made.append(Version(name, number, each.run_id, digest, tuple(aliases.get(number, ()))))
        return sorted(made, key=lambda each: -int(each.number))

    def aliased(self, name: str, alias: str) -> Version | None:
        """The version with that alias, if there is one."""
        return next((each for each in self.versions(name) if alias in each.aliases), None)

    def add(self, node: Node, run: str, record: Mapping[str, Any], params: Mapping[str, str]) -> Version:
        """Enter what `run` made, and make it the candidate. What is there already, by its digest, is not added twice.

        The entry points at the artefact's folder: weights stay where DVC has them.
        """
        name, folder = model_name(node), (Path(node.folder) / "model").resolve()
        known = next((each for each in self._known(name) if each.digest == record["digest"]), None)
        if known is None:
            model = self._logged_model(name, folder, run, record, params)
            # A server takes no folder of ours for a source: there the logged model stands for it; its tags lead here.
            remote = self._client.tracking_uri.startswith("http")
            made = backend.insist(
                self._client.create_model_version,
                name,
                model.artifact_location if remote else folder.as_uri(),
                run,
                tags={"dvc.digest": record["digest"], "artefact": node.folder},
                model_id=model.model_id if remote else None,
            )
            known = Version(name, str(made.version), run, record["digest"], ())
        backend.insist(self._client.set_registered_model_alias, name, CANDIDATE, known.number)
        return known

    def promote(self, version: Version, facts: Mapping[str, str]) -> None:
        """Make `version` the champion, and write down why."""
        for key, value in facts.items():
            self._client.set_model_version_tag(version.name, version.number, f"promoted.{key}", value)
        self._client.set_registered_model_alias(version.name, CHAMPION, version.number)

    def _known(self, name: str) -> list[Version]:
        from mlflow.exceptions import MlflowException

        try:
            backend.insist(self._client.create_registered_model, name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return self.versions(name)
        return []

    def _logged_model(
        self, name: str, folder: Path, run: str, record: Mapping[str, Any], params: Mapping[str, str]
    ) -> Any:
        from mlflow.entities import LoggedModelOutput
        from mlflow.utils.mlflow_tags import MLFLOW_MODEL_IS_EXTERNAL

        tags = {MLFLOW_MODEL_IS_EXTERNAL: "true", "artefact": str(folder), "dvc.digest": record["digest"]}
        objects = read_manifest(folder.parent).get("objects")
        if objects:  # the weights' digests are in the manifest, the weights in this store
            tags["objects"] = objects
        experiment = self._client.get_run(run).info.experiment_id
        model = self._client.create_logged_model(experiment, name, run, tags, dict(params), "student")
        self._client.finalize_logged_model(model.model_id, "READY")
        self._client.log_outputs(run, [LoggedModelOutput(model.model_id, 0)])
        return model
