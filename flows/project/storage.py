"""Where bulk data lies, and the one setting of an S3 endpoint, which DVC, MLflow, workers and our own code obey."""

import os
import re
from collections.abc import Mapping
from typing import Any

from stages.core.config import check, config
from stages.core.messages import brief, together
from stages.io.storage import Store, check_root, use


@config
class Storage:
    """The section `storage`. Nothing in here changes a result."""

    root: str | None
    """s3://bucket/prefix of shards and checkpoints; null keeps them in data/ and .fewstep/."""
    endpoint: str | None
    """Of a server other than AWS: http(s)://host:port."""

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> "Storage":
        """The section, checked."""
        made = check(cls, params["storage"], "storage")
        together(lambda: made.root and check_root(made.root), lambda: made.endpoint and _check_server(made.endpoint))
        return made

    def store(self) -> Store | None:
        """The store at `root`, if there is one."""
        return Store(self.root) if self.root else None


def _check_server(endpoint: str) -> None:
    if not re.fullmatch(r"https?://[A-Za-z0-9.\[\]:_-]+/?", endpoint):
        raise ValueError(f"storage.endpoint={brief(endpoint)}: must be http://host:port or https://host:port")


def settle(params: Mapping[str, Any]) -> Storage:
    """Put the endpoint where every library looks for it, for this process and those that it starts."""
    storage = Storage.of(params)
    use(storage.endpoint)
    if storage.endpoint:
        os.environ["MLFLOW_S3_ENDPOINT_URL"] = storage.endpoint
    return storage
