"""What nobody needs any more: work that was begun and left, artefacts that were set aside, cells, objects of a store.

Work goes on where it was left while its key stands: the parameters, inputs and code that decide the result. Other work
is left for good, unless somebody goes back to what decided it, so it is collected once it is old and nobody is at it.
Of a store, which others use too, whose keys are not known here, age and leases alone decide.

A cell may be of use again whenever somebody goes back to a model, so it stays for as long as it was read lately or this
project's evaluation shows it.

An object lives while a manifest names it that lies in this project's data/, in DVC's cache or in DVC's default remote
(so that `dvc gc` decides, and colleagues' pushed artefacts count), while work that is there names it, or while it is
young: an artefact that a colleague has made but not pushed yet is protected by its age alone.
"""

import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from flows.project import aside, cells, graph, work
from flows.project.nodes import DATA, Params
from flows.runtime import leases, locks
from flows.versioning import remote
from stages.io import artefacts
from stages.io import cells as kept
from stages.io.storage import Store

Guard = Callable[[str], AbstractContextManager[None]]
"""Keeps others from a node while its work goes; raises Passing or TimeoutError while somebody is at it."""
_DAY_S = 86400.0


@dataclass(frozen=True)
class Litter:
    """A folder, here or in a store, that may go."""

    name: str
    size: int
    """Bytes."""
    days: float
    """Since anything in it was written."""
    remove: Callable[[], None]
    """Raises Passing or TimeoutError, and leaves it, where somebody has begun to use it."""


def here(params: Params, older_than_days: float) -> list[Litter]:
    """What this project's folder holds of it. A new kind of thing that piles up belongs in this sum."""
    moved = left(aside.FOLDER, older_than_days, lambda _stage: locks.hold("pipeline"))
    return [*_work(params, older_than_days), *moved, *_cells(cells.place(None), older_than_days)]


def _work(params: Params, older_than_days: float) -> Iterator[Litter]:
    present = {node.name: work.key(node, params) for node in graph.nodes(params)}
    for each in left(work.FOLDER, older_than_days, locks.hold):
        _, node, key = each.name.rsplit("/", 2)
        unknown = node in present and present[node] is None
        if not unknown and present.get(node) != key and not locks.held(node):
            yield each


def left(folder: Path, older_than_days: float, guard: Guard) -> Iterator[Litter]:
    """What lies in `folder`/<node>/<key> and nobody has touched for so many days, whatever its key."""
    for place in sorted(folder.glob("*/*")):
        litter = _folder(place, partial(guard, place.parent.name))
        if place.is_dir() and litter.days >= older_than_days:
            yield litter


def _cells(home: str | None, older_than_days: float) -> Iterator[Litter]:
    """Cells at `home` that nobody has read for so many days, and what killed processes left of some."""
    for each in cells.unused(home) if home else ():
        days = (time.time() - each.used) / _DAY_S
        if days >= older_than_days:
            yield Litter(f"{home}/{each.key}", each.bytes, days, partial(_forget, str(home), each.key))


def _forget(home: str, key: str) -> None:
    with locks.hold("evaluate"):
        kept.remove(home, [key])


def _folder(place: Path, guard: Callable[[], AbstractContextManager[None]]) -> Litter:
    facts = list(_facts(place))
    days = (time.time() - max(each.st_mtime for each in facts)) / _DAY_S if facts else 0.0

    def remove() -> None:
        with guard():
            shutil.rmtree(place)
        if not any(place.parent.iterdir()):
            place.parent.rmdir()

    return Litter(place.as_posix(), sum(each.st_size for each in facts), days, remove)


def _facts(place: Path) -> Iterator[os.stat_result]:
    """Of the folder and all that it holds; somebody may be at it."""
    for folder, _, names in os.walk(place):
        for path in (folder, *(f"{folder}/{name}" for name in names)):
            with suppress(FileNotFoundError):
                yield os.lstat(path)


def in_store(store: Store, params: Params, older_than_days: float) -> list[Litter]:
    """What `store` holds of it: cells, and work.

    Of work, that which nobody has touched for so many days, holds a lease of, or would go on with from here.
    """
    present = {f"work/{node.name}/{work.key(node, params)}" for node in graph.nodes(params)}
    places: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for path, facts in store.list("work").items():
        _, node, key, *_ = path.split("/")
        places[f"work/{node}/{key.removesuffix(leases.SUFFIX)}"].append(facts)
    found = []
    for place, facts in sorted(places.items()):
        days = (datetime.now(UTC) - max(each["LastModified"] for each in facts)).total_seconds() / _DAY_S
        _, node, key = place.split("/")
        if days >= older_than_days and place not in present and not leases.held(store, node, key):
            size = sum(each["size"] for each in facts)
            found.append(Litter(f"{store.root}/{place}", size, days, partial(_remove, store, node, key)))
    return [*found, *_cells(f"{store.root}/{kept.CELLS}", older_than_days)]


def _remove(store: Store, node: str, key: str) -> None:
    with leases.hold(store, node, key):
        store.remove(f"work/{node}/{key}")


@dataclass(frozen=True)
class Objects:
    """Those of a store that nobody needs."""

    sizes: Mapping[str, int]
    """Path under the root -> bytes."""
    kept: int
    manifests: int
    """How many manifests were read to find out."""


def objects(store: Store, older_than_days: float, but: Collection[str] = ()) -> Objects:
    """Every object of `store` that nothing names and that is older than `older_than_days`.

    What lies in the places of `but` names nothing any more. Raises ValueError, and nothing is to be deleted, where
    DVC's remote cannot be read.
    """
    alive, manifests = set[str](), 0
    for manifest in _manifests():
        if manifest.get("objects") == store.root:
            manifests += 1
            alive.add(artefacts.sha256_of(manifest))
            alive.update(entry["sha256"] for entry in manifest["files"])
    there = [*store.list("work"), *store.list(kept.CELLS)]
    stays = [name for name in there if not any(f"{store.root}/{name}".startswith(f"{place}/") for place in but)]
    for content in store.read_documents(stays).values():
        if content:  # a lease names nothing, a seal, a state and a manifest do
            alive.update(entry["sha256"] for entry in content.get("files", []))
    before = datetime.now(UTC) - timedelta(days=older_than_days)
    stored = store.list("objects")
    sizes = {
        path: facts["size"]
        for path, facts in stored.items()
        if path.rpartition("/")[2] not in alive and facts["LastModified"] < before
    }
    return Objects(sizes, len(stored) - len(sizes), manifests)


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
