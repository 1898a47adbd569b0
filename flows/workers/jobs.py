"""Ray jobs: a command that runs on the cluster's head, its output and its end."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

_START_S, _END_S = 30.0, 30.0
_NO_AGENT = "No available agent"
"""Words of a head that has just started: whatever a dashboard answers, Ray's client makes of it prose."""


def client(address: str) -> Any:
    """Ray's client for the dashboard at `address`; ValueError if none answers."""
    from ray.job_submission import JobSubmissionClient

    if not address.startswith(("http://", "https://")):
        raise ValueError(f"--address={address}: must be the dashboard's, http://head:8265")
    try:
        return JobSubmissionClient(address)
    except Exception as error:  # noqa: BLE001 (Ray raises bare ones too: no route, no dashboard, no token)
        raise ValueError(
            f"--address={address}: no Ray dashboard answers there ({last(str(error))}); is it the head's dashboard "
            "port, does the tunnel stand, and is RAY_AUTH_TOKEN set if the cluster wants one?"
        ) from None


def submit(client: Any, entrypoint: str) -> str:
    """The id of the job that runs `entrypoint`; ValueError if the cluster takes none."""
    end = time.monotonic() + _START_S
    while True:
        try:
            return client.submit_job(entrypoint=entrypoint)
        except RuntimeError as error:
            if _NO_AGENT not in str(error) or time.monotonic() > end:  # a head that has just started
                raise ValueError(f"{client.get_address()}: took no job ({last(str(error))})") from None
            time.sleep(1.0)


def follow(client: Any, job: str, say: Callable[[str], None]) -> None:
    """Give `say` what the job says, piece by piece, until it ends."""

    async def listen() -> None:
        async for text in client.tail_job_logs(job):
            say(text)

    asyncio.run(listen())


def status(client: Any, job: str) -> str:
    """How the job has ended, or what it does if it goes on."""
    end = time.monotonic() + _END_S
    while not (status := client.get_job_status(job)).is_terminal() and time.monotonic() < end:
        time.sleep(0.2)
    return str(status.value)


def last(text: str) -> str:
    """The last line that says anything."""
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["no message"])[-1]
