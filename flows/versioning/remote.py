"""The place that a project shares its artefacts at: DVC's default remote."""

from pathlib import Path
from typing import Any

from flows.versioning import command
from stages.io import storage
from stages.io.storage import StorageError

_ASKED = ("s3", "local")


def configure(name: str, url: str, endpoint: str | None) -> None:
    """Make remote `name` at `url` the project's default. Raises ValueError with DVC's words where it refuses."""
    command.ask("remote", "add", "--default", "--force", name, url)
    if endpoint:
        command.ask("remote", "modify", name, "endpointurl", endpoint)


def default(where: Path) -> str | None:
    """The default remote's name in the project `where`, None if it has none."""
    for line in command.ask("config", "--list", where=where).splitlines():
        key, _, value = line.partition("=")
        if key == "core.remote":
            return value
    return None


def require(where: Path) -> None:
    """StorageError, Transient where it may pass, unless the default remote of the project `where` answers us.

    DVC's own exit code does not tell a remote that is away from one that refuses us. Only S3 and folders are asked.
    """
    from dvc.repo import Repo

    with Repo(str(where)) as repo:
        try:
            remote = repo.cloud.get_remote_odb()
        except ImportError as error:  # DVC's own part for this kind of remote
            raise StorageError(f"DVC's remote: {error}") from None
        if remote.fs.protocol not in _ASKED:
            return
        with storage.speaking(f"DVC's remote at {remote.path}"):
            is_there(remote)


def is_there(objects: Any) -> bool:
    """Whether anything was ever put into a place of DVC's objects; raises what its file system raises if it is away.

    (`exists` of most file systems takes every fault for a no.)
    """
    try:
        objects.fs.ls(objects.path)
    except FileNotFoundError as error:
        if error.__cause__ is not None:  # S3's own answer: it has no such bucket
            raise
        return False
    return True
