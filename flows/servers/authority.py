"""One certificate authority, for clients of our own Prefect server.

It speaks no TLS, yet each of Prefect's clients reads all authorities that it knows, 13 ms several times for each task.
"""

import os

import certifi

from flows.servers.service import FOLDER

_VARIABLE = "PREFECT_API_SSL_CERT_FILE"
_END = "-----END CERTIFICATE-----\n"


def only_one() -> dict[str, str]:
    """The environment of a process of this machine that knows a single one; none where a person has named theirs."""
    if os.environ.get(_VARIABLE):
        return {}
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER.resolve() / "authority.pem"
    part = file.with_name(f".{file.name}.{os.getpid()}")
    first, end, _ = certifi.contents().partition(_END)
    part.write_text(first + end, encoding="utf-8")
    part.replace(file)
    return {_VARIABLE: str(file)}
