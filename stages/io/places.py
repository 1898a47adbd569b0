"""Where units of work and artefacts lie: a folder, or a place in a store that any machine can reach.

A place in a store is `<root>/work/<name>/<key>/<unit>`. It holds two small documents, `unit.json` (the seal) and
`resume.json` (an interrupted unit's state); what they name are objects.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from stages.core.cache import cache_folder
from stages.io import artefacts
from stages.io.storage import Store, is_url

if TYPE_CHECKING:  # orchestration imports this, and has no use for torch
    from stages.core.types import Sink

RESUME = "resume"


def sealed(place: str) -> bool:
    """Whether the unit at `place` was finished and is whole."""
    if not is_url(place):
        return artefacts.sealed(Path(place))
    store, name = _split(place)
    seal = store.read_document(f"{name}/{artefacts.SEAL}")
    return seal is not None and seal["schema"] == artefacts.SCHEMA and not store.missing(seal["files"])


def compute(place: str, body: "Callable[[Path, Sink], None]", sink: "Sink") -> None:
    """Have `body(folder, sink)` make the unit at `place` and seal it, unless that was done before.

    What an interrupted one left in `folder/resume` is there again; in a store it is kept up to date as `body` reports.
    """
    if sealed(place):
        return
    if not is_url(place):
        folder = Path(place)
        (folder / artefacts.SEAL).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        body(folder, sink)
        artefacts.seal(folder)
        return
    store, name = _split(place)
    with tempfile.TemporaryDirectory(prefix="fewstep-unit-") as scratch:
        folder = Path(scratch)
        state = store.read_document(f"{name}/{RESUME}.json") or {"files": []}
        if not store.missing(state["files"]):
            store.fetch_all(folder / RESUME, state["files"])
        with _Mirror(store, name, folder / RESUME, sink) as mirror:
            body(folder, mirror)
        artefacts.seal(folder)
        content = json.loads((folder / artefacts.SEAL).read_text(encoding="utf-8"))
        store.put_all(folder, content["files"])
        store.write_document(f"{name}/{artefacts.SEAL}", content)
        store.remove(f"{name}/{RESUME}.json")


class _Mirror:
    """A sink that also has the state in `folder` sent to the store, whenever it has changed, by a thread of its own."""

    def __init__(self, store: Store, name: str, folder: Path, sink: "Sink") -> None:
        self._store, self._name, self._folder, self._sink = store, name, folder, sink
        self._pool = ThreadPoolExecutor(1, "mirror")
        self._sending: Future[None] | None = None
        self._sent: set[tuple[str, int]] = set()

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report, and send what is new unless the last is still on its way. Raises what sending that raised."""
        self._sink(step, metrics)
        if self._sending and not self._sending.done():
            return
        if self._sending:
            self._sending.result()
        files = [file for file in self._folder.glob("[!.]*") if file.is_file()]
        now = {(file.name, file.stat().st_mtime_ns) for file in files}
        if now and now != self._sent:
            held = Path(tempfile.mkdtemp(prefix=".sent-", dir=self._folder.parent))
            for file in files:  # a state is replaced as a whole, and this one has to last until it is there
                os.link(file, held / file.name)
            self._sending, self._sent = self._pool.submit(self._send, held), now

    def _send(self, held: Path) -> None:
        try:
            files = artefacts.inventory(held)
            self._store.put_all(held, files)
            self._store.write_document(f"{self._name}/{RESUME}.json", {"files": files})
        finally:
            shutil.rmtree(held)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_others: object) -> None:
        """Wait for what is on its way; its own error counts where there is no other."""
        self._pool.shutdown()
        if self._sending and error is None:
            self._sending.result()


def view(place: str) -> Path:
    """A folder to read the artefact or finished unit at `place` from: itself, or a copy without its shards.

    Shards stay where they are until `Shard.read` asks for one; other files are fetched once, checked, and kept in
    the cache of this machine.
    """
    if not is_url(place):
        folder = Path(place)
        if not (folder / artefacts.MANIFEST).is_file():
            return folder
        manifest = artefacts.read_manifest(folder)
        if "objects" not in manifest:
            return folder
        return _copy(Store(manifest["objects"]), artefacts.MANIFEST, manifest)
    if "/objects/" in place:
        return _copy(Store.of_place(place), artefacts.MANIFEST, manifest_of(place))
    store, name = _split(place)
    seal = store.read_document(f"{name}/{artefacts.SEAL}")
    if seal is None:
        raise ValueError(f"{place}: not finished")
    return _copy(store, artefacts.SEAL, seal)


def manifest_of(place: str) -> dict[str, Any]:
    """The manifest of an artefact, in a folder or a store."""
    if not is_url(place):
        return artefacts.read_manifest(Path(place))
    store, sha256 = Store.of_place(place), place.rpartition("/")[2]
    return json.loads(store.read({"path": artefacts.MANIFEST, "sha256": sha256, "bytes": 0}))


def _copy(store: Store, name: str, content: Mapping[str, Any]) -> Path:
    """The cached folder with `content` as its document `name`, and all that it names but shards."""
    folder = cache_folder() / artefacts.digest_of(content)[:32]
    if folder.is_dir():
        os.utime(folder)
        return folder
    from stages.io.shards import is_shard

    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    build = Path(tempfile.mkdtemp(prefix=".build-", dir=folder.parent))
    try:
        store.fetch_all(build, [entry for entry in content["files"] if not is_shard(entry["path"])])
        artefacts.write_json(build / name, content)
        try:
            build.replace(folder)
        except OSError:  # another process was quicker: the same content
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(build, ignore_errors=True)
    return folder


def publish(store: Store, folder: Path) -> str:
    """The URL of artefact `folder` for any machine; what only this one has is sent there first."""
    manifest = artefacts.read_manifest(folder)
    if "objects" not in manifest:
        store.put_all(folder, manifest["files"])
        manifest = {**manifest, "objects": store.root}
    own = Store(manifest["objects"])
    with tempfile.TemporaryDirectory(prefix="fewstep-") as scratch:
        return own.url(artefacts.put_manifest(own, Path(scratch), manifest)["sha256"])


def check_out(manifest: Mapping[str, Any], out: Path) -> None:
    """Make folder `out` hold an artefact of a store: its manifest and all files but the bulk, in one rename."""
    build = out.parent / f".{out.name}.build"
    shutil.rmtree(build, ignore_errors=True)
    build.mkdir(parents=True)
    small = [entry for entry in manifest["files"] if not entry["path"].endswith(artefacts.BULK)]
    Store(manifest["objects"]).fetch_all(build, small)
    artefacts.write_json(build / artefacts.MANIFEST, manifest)
    artefacts.replace(build, out)


def name_in_store(place: str) -> str:
    """The path of `place` under the root of its store."""
    return place.removeprefix(f"{Store.of_place(place).root}/")


def _split(place: str) -> tuple[Store, str]:
    return Store.of_place(place), name_in_store(place)
