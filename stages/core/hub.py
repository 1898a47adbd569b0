"""Snapshots of models on the Hugging Face hub, pinned."""

from collections.abc import Sequence
from pathlib import Path

HUB = "hub:"


def snapshot(source: str, wanted: Sequence[str], others: Sequence[str] = ()) -> Path:
    """The folder, among this machine's copies, of what is `wanted` of `source`, hub:<id>@<revision>, but for `others`.

    Its name is the commit. ValueError where no revision is stated, or where it cannot be had.
    """
    name, _, revision = source.removeprefix(HUB).partition("@")
    if not revision:
        raise ValueError(
            f"{source}: no revision; say {HUB}{name or '<id>'}@<revision>, so that it stays the same checkpoint"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=list(wanted), ignore_patterns=list(others))
        )
    except HFValidationError as error:
        raise ValueError(f"{source}: {error}") from None
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        told = str(error).splitlines()[0]
        raise ValueError(f"{source}: not to be had ({told}); name a folder that holds it") from None
