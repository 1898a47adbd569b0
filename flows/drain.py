"""Prefect sends logs and events in the background; ending a server or a process must not lose them."""


def drain() -> None:
    """Wait until what this process has said has reached the server, five seconds at most for each kind."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=5)
    EventsWorker.drain_all(timeout=5)
