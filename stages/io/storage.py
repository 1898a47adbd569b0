"""Bulk data on S3: objects named by their sha256 under one root, written once and checked whenever they are read.

A root, `s3://bucket/prefix`, holds `objects/<2 digits>/<sha256>` and, while a stage runs, small documents in `work/`.
Credentials and the endpoint come from the environment or the AWS files; nothing here takes or shows them.
"""

import base64
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from stages.io import hashing

Entry = Mapping[str, Any]
"""A file of an artefact: path, bytes, sha256."""

ENDPOINT = "AWS_ENDPOINT_URL_S3"
"""Environment variable that boto3, s3fs and dvc-s3 obey."""
ATTEMPTS = 4
"""Tries of one request; botocore waits a little longer before each."""
CONNECT_S, READ_S = 5.0, 60.0
_SINGLE_PUT = 100 * 2**20
"""Smaller files go up in one request, larger ones in parts."""
_CHECKED_PUT = 2**20
"""From here on, ask whether an object is there before sending it again."""
_PARALLEL = 8


class StorageError(ValueError):
    """The store refused, did not answer, or holds something else than it should; says what to do."""


def is_url(place: str | Path) -> bool:
    """Whether `place` is in a store rather than a folder."""
    return "://" in str(place)


def check_root(root: str) -> str:
    """`root` without a slash at its end; ValueError if it is not s3://bucket[/prefix]."""
    bucket = root.removeprefix("s3://").partition("/")[0]
    if not root.startswith("s3://") or not bucket:
        raise ValueError(f"storage.root={root}: must be s3://bucket/prefix, or null for the folder data/")
    return root.rstrip("/")


class Store:
    """The objects under one root."""

    def __init__(self, root: str) -> None:
        self.root = check_root(root)

    @classmethod
    def of_place(cls, place: str) -> "Store":
        """The store that holds a work place or an object."""
        for room in ("/work/", "/objects/"):
            root, found, _ = place.rpartition(room)
            if found:
                return cls(root)
        raise ValueError(f"{place}: not a place in a store")

    def url(self, sha256: str) -> str:
        """Where the object with this digest lies."""
        return f"{self.root}/objects/{sha256[:2]}/{sha256}"

    def put(self, file: Path, entry: Entry) -> None:
        """Send a file, unless its object is there."""
        url = self.url(entry["sha256"])
        if entry["bytes"] >= _CHECKED_PUT and self.size(url) == entry["bytes"]:
            return
        digest = {}
        if entry["bytes"] < _SINGLE_PUT:  # the server then refuses a body that was damaged on its way
            digest = {"ContentMD5": base64.b64encode(bytes.fromhex(hashing.md5_of_file(file))).decode()}
        with self._speaking():
            _filesystem().put_file(str(file), url, ContentType="application/octet-stream", **digest)
        found = self.size(url)
        if found != entry["bytes"]:
            raise StorageError(f"{url}: {found} bytes arrived of {entry['bytes']}; run it again")

    def put_all(self, folder: Path, entries: Iterable[Entry]) -> None:
        """Send the files of `folder`, several at once."""
        _at_once(lambda entry: self.put(folder / entry["path"], entry), entries)

    def read(self, entry: Entry) -> bytes:
        """An object's bytes, which are what they were; a damaged answer is asked for again."""
        url = self.url(entry["sha256"])
        for _ in range(ATTEMPTS):
            with self._speaking(f"{entry['path']} ({url})"):
                content = _filesystem().cat_file(url)
            if hashing.sha256(content) == entry["sha256"]:
                return content
        raise StorageError(
            f"{url}: altered, {len(content)} bytes with another sha256 where {entry['path']} should be "
            f"({entry['bytes']} bytes); delete the object and make the artefact anew with `dvc repro -f -s <stage>`"
        )

    def fetch(self, entry: Entry, target: Path) -> None:
        """Write an object to `target` in one step."""
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        temporary.write_bytes(self.read(entry))
        temporary.replace(target)

    def fetch_all(self, folder: Path, entries: Iterable[Entry]) -> None:
        """Write objects to their paths under `folder`, several at once."""
        _at_once(lambda entry: self.fetch(entry, folder / entry["path"]), entries)

    def missing(self, entries: Iterable[Entry]) -> list[Entry]:
        """Those that are not there in full length; their bytes are checked when they are read."""
        entries = list(entries)
        sizes = _at_once(lambda entry: self.size(self.url(entry["sha256"])), entries)
        return [entry for entry, size in zip(entries, sizes, strict=True) if size != entry["bytes"]]

    def size(self, url: str) -> int | None:
        """Bytes of what lies at `url`, None if nothing does."""
        with self._speaking():
            try:
                return _filesystem().info(url)["size"]
            except FileNotFoundError:
                self.require()
                return None
            except OSError:
                self.require()  # an answer to HEAD has no words: ask again in a way that has
                raise

    def write_document(self, name: str, content: Any, *, exclusively: bool = False) -> bool:
        """JSON at `<root>/<name>`, in one step; `exclusively` only if nothing is there, which is what it returns."""
        with self._speaking():
            try:
                mode = "create" if exclusively else "overwrite"
                _filesystem().pipe_file(f"{self.root}/{name}", json.dumps(content).encode(), mode=mode)
            except FileExistsError:
                return False
            except OSError as error:
                if exclusively and "PreconditionFailed" in f"{error!r}{error.__cause__!r}":
                    return False
                raise
        return True

    def read_document(self, name: str) -> Any:
        """What `write_document` wrote, None if nothing."""
        with self._speaking():
            try:
                return json.loads(_filesystem().cat_file(f"{self.root}/{name}"))
            except FileNotFoundError:
                self.require()
                return None

    def remove(self, name: str) -> None:
        """Everything at and under `<root>/<name>`; nothing there is fine."""
        with self._speaking():
            filesystem = _filesystem()
            found = filesystem.find(f"{self.root}/{name}")
            if found:
                filesystem.rm(found)

    def list(self, name: str) -> dict[str, Mapping[str, Any]]:
        """Path under the root -> facts (size, LastModified) of everything under `<root>/<name>`."""
        start = self.root.removeprefix("s3://") + "/"
        with self._speaking():
            found = _filesystem().find(f"{self.root}/{name}", detail=True)
        return {path.removeprefix(start): facts for path, facts in found.items()}

    def require(self) -> None:
        """StorageError if the bucket is not there, or may not be looked into."""
        bucket = self.root.removeprefix("s3://").partition("/")[0]
        with self._speaking():
            _filesystem().call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)

    @contextmanager
    def _speaking(self, what: str = "") -> Iterator[None]:
        """Every fault of the store as one clear message."""
        try:
            yield
        except FileExistsError:
            raise
        except StorageError:
            raise
        except Exception as error:
            fault = _explain(error)
            if fault is None:
                raise
            raise StorageError(f"{what or self.root}: {fault}; what was finished is kept") from error


def use(endpoint: str | None) -> None:
    """Talk to the server at `endpoint` from now on; null leaves it to the environment, which leaves it to AWS."""
    if endpoint:
        os.environ[ENDPOINT] = endpoint
        # Servers other than AWS refuse or damage bodies with the checksums that botocore 1.36 and later adds.
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "WHEN_REQUIRED")
        os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "WHEN_REQUIRED")


def _explain(error: Exception) -> str | None:
    """What a fault of s3fs or botocore means, and what to do; None for a fault of ours."""
    from botocore.exceptions import BotoCoreError, NoCredentialsError

    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, NoCredentialsError):
        return "no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or ~/.aws/credentials"
    if "expired" in said.lower():
        return f"the AWS credentials have expired ({said}); renew them and run it again"
    if isinstance(error, PermissionError):
        return (
            f"access refused ({said}); the credentials must allow s3:ListBucket, s3:GetObject, s3:PutObject and "
            "s3:DeleteObject there"
        )
    if isinstance(error, FileNotFoundError):
        return f"not there ({said}); correct storage.root, create the bucket, or make the artefact anew"
    if isinstance(error, OSError | BotoCoreError | TimeoutError):
        where = os.environ.get(ENDPOINT, "AWS")
        return f"no good answer from {where} in several tries ({said}); check storage.endpoint and the network"
    return None


def _filesystem() -> Any:
    return _connected(os.environ.get(ENDPOINT))


@cache
def _connected(_endpoint: str | None) -> Any:
    """botocore reads the endpoint where it reads the credentials; a process that is told another needs another."""
    import s3fs

    return s3fs.S3FileSystem(
        use_listings_cache=False,
        skip_instance_cache=True,
        config_kwargs={
            "retries": {"mode": "standard", "max_attempts": ATTEMPTS},
            "connect_timeout": CONNECT_S,
            "read_timeout": READ_S,
        },
    )


def _at_once(call: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    with ThreadPoolExecutor(_PARALLEL) as pool:
        return list(pool.map(call, items))
