"""Reading a pretrained network of transformers from a folder: local files and safetensors only, no remote code."""

from typing import Any

from stages.core.messages import brief, listed
from stages.core.pretrained import Pretrained


def read(kind: Any, given: Pretrained, **settings: Any) -> Any:
    """What `kind`, a class of transformers, makes of the folder; ValueError, in one line, where it can make nothing."""
    from safetensors import SafetensorError

    folder = given.place
    if hasattr(kind, "forward"):  # a network, not what prepares its input
        _require(given)
    try:
        return kind.from_pretrained(folder, local_files_only=True, **settings)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError) as error:
        said = brief(" ".join(str(error).split()))
        raise ValueError(f"{given.source}: {kind.__name__} cannot read it ({said})") from error


def _require(given: Pretrained) -> None:
    if not (given.place / "config.json").is_file():
        raise ValueError(f"{given.source}: no network of transformers; config.json is missing")
    if not any(given.place.glob("*.safetensors")):
        names = listed(sorted(file.name for file in given.place.iterdir()))
        raise ValueError(
            f"{given.source}: no weights as safetensors (it has {names}); nothing is unpickled, convert them"
        )
