"""GPUs among several pipelines: slots of a limit on the Prefect server, beside what Ray hands out within one."""

import math
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from flows.runtime import processes

LIMIT = "fewstep-gpu"
"""Prefect's global concurrency limit; `fewstep work` sets it to the number of GPUs."""
_NO_GPU, _NO_DRIVER = 6, 9
"""nvidia-smi's exit codes where it finds no GPU, and where it is installed and no driver is."""


def count() -> int:
    """GPUs of this machine, as nvidia-smi lists them. Raises ValueError where it fails: there may be some."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    try:
        answer = processes.ask(tool, "--query-gpu=index", "--format=csv,noheader", codes=(0, _NO_GPU, _NO_DRIVER))
    except processes.NoAnswer as error:
        raise ValueError(f"{error}; say how many GPUs there are: `fewstep work --gpus <number>`") from None
    return 0 if answer.code else len(answer.out.splitlines())


@contextmanager
def taken(gpus: float, timeout_s: float) -> Iterator[int]:
    """Hold slots for `gpus` GPUs, all of them where there are fewer; yields how many.

    None are held, and nothing waits, where no GPU is asked for or the server has no such limit. A holder that dies
    loses its slots within five minutes. Raises ValueError after `timeout_s` seconds of waiting.
    """
    wanted = min(math.ceil(gpus), _limit()) if gpus else 0
    if not wanted:
        yield 0
        return
    from prefect.concurrency.sync import concurrency

    with ExitStack() as stack:
        try:
            stack.enter_context(concurrency(LIMIT, occupy=wanted, timeout_seconds=timeout_s))
        except TimeoutError:
            raise ValueError(
                f"{wanted} slots of the limit {LIMIT} were not free within {timeout_s:g} s; end the runs that hold "
                "them, or raise compute.place_s"
            ) from None
        yield wanted


def _limit() -> int:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            found = client.read_global_concurrency_limit_by_name(LIMIT)
        except ObjectNotFound:
            return 0
    return found.limit if found.active else 0
