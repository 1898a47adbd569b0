"""Which objects of a store anybody still needs.

An object lives while a manifest names it that lies in this project's data/, in DVC's cache or in DVC's default remote
(so that `dvc gc` decides, and colleagues' pushed artefacts count), while a running or interrupted stage names it, or
while it is young: an artefact that a colleague has made but not pushed yet is protected by its age alone.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flows.project.nodes import DATA
from flows.versioning import remote
from stages.io import artefacts
from stages.io.storage import Store


@dataclass(frozen=True)
class Litter:
    """What nobody needs."""

    objects: Mapping[str, int]
    """Path under the root -> bytes."""
    kept: int
    manifests: int
    """How many manifests were read to find out."""


def find(store: Store, older_than_days: float) -> Litter:
    """Every object of `store` that nothing names and that is older than `older_than_days`.

    Raises ValueError, and nothing is to be deleted, where DVC's remote cannot be read.
    """
    alive, manifests = set[str](), 0
    for manifest in _manifests():
        if manifest.get("objects") == store.root:
            manifests += 1
            alive.add(artefacts.sha256_of(manifest))
            alive.update(entry["sha256"] for entry in manifest["files"])
    for name in store.list("work"):
        content = store.read_document(name)
        if content:  # a lease names nothing, a seal, a state and a manifest do
            alive.update(entry["sha256"] for entry in content.get("files", []))
    before = datetime.now(UTC) - timedelta(days=older_than_days)
    objects = store.list("objects")
    litter = {
        path: facts["size"]
        for path, facts in objects.items()
        if path.rpartition("/")[2] not in alive and facts["LastModified"] < before
    }
    return Litter(litter, len(objects) - len(litter), manifests)


def _manifests() -> Iterator[Mapping[str, Any]]:
    for file in DATA.rglob(artefacts.MANIFEST):
        yield json.loads(file.read_text(encoding="utf-8"))
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    with Repo(str(Path.cwd())) as repo:
        caches = [repo.cache.local]
        if repo.config["core"].get("remote"):
            caches.append(repo.cloud.get_remote_odb())
        for cache in caches:
            try:
                yield from _in_cache(cache)
            except (DvcException, OSError) as error:
                raise ValueError(
                    f"DVC's cache at {cache.path} cannot be read ({error}), so nobody can tell what is needed; nothing "
                    "was deleted"
                ) from None


def _in_cache(cache: Any) -> Iterator[Mapping[str, Any]]:
    if not remote.is_there(cache):
        return
    for oid in cache.all():
        if oid.endswith(".dir"):
            listed = json.loads(cache.fs.cat_file(cache.oid_to_path(oid)))
            for entry in listed:
                if entry["relpath"] == artefacts.MANIFEST and cache.exists(entry["md5"]):
                    yield json.loads(cache.fs.cat_file(cache.oid_to_path(entry["md5"])))
