"""What a person reads when something fails."""

import os

_HTTP = ("httpx", "httpcore")
"""What Prefect's client speaks through, and nothing else of ours."""


def lines(error: BaseException) -> list[str]:
    """The message, line by line; for anything but bad input, with what it was."""
    text = str(error) or "no message"
    if _of_prefect(error):
        address = os.environ.get("PREFECT_API_URL", "").rpartition("@")[2]
        text = (
            f"Prefect's server at {address} does not answer ({text.splitlines()[0]}); start it again (`fewstep up` for "
            "this project's own) and run this again; finished units are kept"
        )
    elif not isinstance(error, ValueError | OSError):
        text = f"{type(error).__name__}: {text}; a fault of ours or of a tool, --debug shows where"
    return [line for line in text.strip().splitlines() if line.strip()]


def _of_prefect(error: BaseException | None) -> bool:
    """Whether the server could not be reached: a connection's error, wherever it was raised first."""
    while error is not None:
        if type(error).__module__.partition(".")[0] in _HTTP:
            return True
        error = error.__cause__
    return False
