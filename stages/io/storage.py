"""Bulk data on S3: objects named by their sha256 under one root, written once and checked whenever they are read.

A root, `s3://bucket/prefix`, holds `objects/<2 digits>/<sha256>` and, while a stage runs, small documents in `work/`.
Credentials and the endpoint come from the environment or the AWS files; nothing here takes or shows them.
"""

import base64
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

from stages.core import hashing
from stages.core.messages import brief

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
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired")
_BUSY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS)


class StorageError(ValueError):
    """The store refused, did not answer, or holds something else than it should; says what to do."""


class TransientStorageError(StorageError):
    """It did not answer, or is busy, or half a file arrived: the same may do later, with nothing put right."""


class AlteredStorageError(StorageError):
    """An object holds other bytes than its name says."""


def is_url(place: str | Path) -> bool:
    """Whether `place` is in a store rather than a folder."""
    return "://" in str(place)


def check_root(root: str) -> str:
    """`root` without a slash at its end; ValueError if it is not s3://bucket[/prefix]."""
    if not re.fullmatch(r"s3://[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9_=-][A-Za-z0-9._=-]*)*/?", root):
        raise ValueError(
            f"storage.root={brief(root)}: must be s3://bucket/prefix, of letters, digits and ._=-, or null for the "
            "folder data/"
        )
    return root.rstrip("/")


class Store:
    """The objects under one root."""

    def __init__(self, root: str) -> None:
        self.root = check_root(root)

    @classmethod
    def of_place(cls, place: str) -> "Store":
        """The store that holds a work place, a cell or an object."""
        # The last one: a root may hold such names too.
        end = max(place.rfind(folder) for folder in ("/work/", "/cells/", "/objects/"))
        if end < 0:
            raise ValueError(f"{place}: not a place in a store")
        return cls(place[:end])

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
            filesystem().put_file(str(file), url, ContentType="application/octet-stream", **digest)
        found = self.size(url)
        if found != entry["bytes"]:
            raise TransientStorageError(f"{url}: {found} bytes arrived of {entry['bytes']}; run it again")

    def put_all(self, folder: Path, entries: Iterable[Entry]) -> None:
        """Send the files of `folder`, several at once."""
        _at_once(lambda entry: self.put(folder / entry["path"], entry), entries)

    def read(self, entry: Entry) -> bytes:
        """An object's bytes, which are what they were; a damaged answer is asked for again."""
        url = self.url(entry["sha256"])
        for _ in range(ATTEMPTS):
            with self._speaking(f"{entry['path']} ({url})"):
                content = filesystem().cat_file(url)
            if hashing.sha256(content) == entry["sha256"]:
                return content
        raise AlteredStorageError(
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
                return filesystem().info(url)["size"]
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
                filesystem().pipe_file(f"{self.root}/{name}", json.dumps(content).encode(), mode=mode)
            except FileExistsError:
                return False
            except OSError as error:
                if exclusively and _refusal(error)[1] == HTTPStatus.PRECONDITION_FAILED:
                    return False
                raise
        return True

    def read_document(self, name: str) -> Any:
        """What `write_document` wrote, None if nothing."""
        with self._speaking():
            try:
                return json.loads(filesystem().cat_file(f"{self.root}/{name}"))
            except FileNotFoundError:
                self.require()
                return None

    def read_documents(self, names: Iterable[str]) -> dict[str, Any]:
        """`read_document` of each name, several at once."""
        names = list(names)
        return dict(zip(names, _at_once(self.read_document, names), strict=True))

    def renew(self, name: str, age_s: float) -> None:
        """Write the document once more, for its age, if that is more than `age_s` seconds."""
        with self._speaking():
            written = filesystem().info(f"{self.root}/{name}")["LastModified"]
        if time.time() - written.timestamp() > age_s:
            self.write_document(name, self.read_document(name))

    def remove(self, name: str) -> None:
        """Everything at and under `<root>/<name>`; nothing there is fine."""
        with self._speaking():
            if found := filesystem().find(f"{self.root}/{name}"):
                filesystem().rm(found)

    def list(self, name: str) -> dict[str, Mapping[str, Any]]:
        """Path under the root -> facts (size, LastModified) of everything under `<root>/<name>`."""
        start = self.root.removeprefix("s3://") + "/"
        with self._speaking():
            found = filesystem().find(f"{self.root}/{name}", detail=True)
        return {path.removeprefix(start): facts for path, facts in found.items()}

    def require(self) -> None:
        """StorageError if the bucket is not there, or may not be looked into."""
        bucket = self.root.removeprefix("s3://").partition("/")[0]
        with self._speaking():
            filesystem().call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)

    def _speaking(self, what: str = "") -> AbstractContextManager[None]:
        return speaking(what or self.root)


@contextmanager
def speaking(what: str) -> Iterator[None]:
    """Every fault of a store, met where `what` is read or written, as one clear message: a StorageError."""
    try:
        yield
    except (FileExistsError, StorageError):
        raise
    except Exception as error:
        if not (fault := _explain(error)):
            raise
        kind = TransientStorageError if _may_pass(error) else StorageError
        raise kind(f"{what}: {fault}; what was finished is kept") from error


def use(endpoint: str | None) -> None:
    """Talk to the server at `endpoint` from now on; null leaves it to the environment, which leaves it to AWS."""
    if endpoint:
        os.environ[ENDPOINT] = endpoint
        # Servers other than AWS refuse or damage bodies with the checksums that botocore 1.36 and later adds.
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "WHEN_REQUIRED")
        os.environ.setdefault("AWS_RESPONSE_CHECKSUM_VALIDATION", "WHEN_REQUIRED")


def _explain(error: Exception) -> str | None:
    """What a fault of s3fs or botocore means, and what to do; None for a fault of ours."""
    from botocore import exceptions as boto

    said, where = " ".join(str(error).split()) or type(error).__name__, os.environ.get(ENDPOINT, "AWS")
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        return "no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or ~/.aws/credentials"
    no_token = isinstance(error, boto.SSOError | boto.TokenRetrievalError | boto.CredentialRetrievalError)
    if no_token or _refusal(error)[0] in _EXPIRED:
        return f"the AWS credentials have expired ({said}); renew them and run it again"
    if isinstance(error, PermissionError):
        return (
            f"access refused ({said}); the credentials must allow s3:ListBucket, s3:GetObject, s3:PutObject and "
            "s3:DeleteObject there"
        )
    if isinstance(error, FileNotFoundError):
        return f"not there ({said}); correct storage.root, create the bucket, or make the artefact anew"
    if isinstance(error, OSError | boto.BotoCoreError):
        what, check = ("no good answer from", "storage.endpoint and the network")
        if not _may_pass(error):
            what, check = ("refused by", "storage.root, storage.endpoint and the credentials")
        return f"{what} {where} ({said}); check {check}"
    return None


def _may_pass(error: Exception) -> bool:
    """Whether it was no answer, or one that says: later."""
    from botocore import exceptions as boto

    status = _refusal(error)[1]
    if isinstance(error, PermissionError | FileNotFoundError | boto.SSLError):
        return False
    if status:
        return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _BUSY or isinstance(error, TimeoutError)
    return isinstance(error, OSError | boto.HTTPClientError | boto.ConnectionError | boto.IncompleteReadError)


def _refusal(error: BaseException | None) -> tuple[str, int]:
    """S3's code and HTTP status, which s3fs leaves in the cause of what it raises; ("", 0) where S3 said nothing."""
    from botocore.exceptions import ClientError

    while error is not None:
        if isinstance(error, ClientError):
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            return error.response["Error"].get("Code", ""), status
        error = error.__cause__
    return "", 0


def filesystem() -> Any:
    """S3 as fsspec speaks it, at the endpoint that the environment names."""
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
