"""What a stage's workers use: processor, memory and GPU, sampled where they compute and summed where they are shown.

The samples go to a file beside a unit's reports, never into its results. They are not reports: a unit that hangs goes
on breathing, and must still be taken for hung.
"""

import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from flows.runtime.repeat import repeated

INTERVAL_S = 2.0
BIN_S = 5.0
_MIB = 2**20
Sample = dict[str, float]


@contextmanager
def sampled(file: Path, device: str) -> Iterator[None]:
    """Append a sample of this process to `file` every few seconds, and one at the end, however short it was."""
    process = psutil.Process()
    worker = f"{platform.node()}:{process.pid}"
    gpu = _gpu() if device != "cpu" else dict
    process.cpu_percent()  # the first call only begins to measure

    def write() -> None:
        taken = {"cpu_percent": process.cpu_percent(), "memory_mib": process.memory_info().rss / _MIB} | gpu()
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"time": time.time(), "worker": worker, "sample": taken}) + "\n")

    with repeated(write, INTERVAL_S, "vitals"):
        yield


def _gpu() -> Callable[[], Sample]:
    """Samples the first GPU that this process may use; without NVML's bindings, nothing."""
    try:
        import pynvml  # type: ignore[import-not-found] (comes with the extra `gpu` alone)
    except ImportError:
        return dict
    try:
        pynvml.nvmlInit()
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
        handle = (
            pynvml.nvmlDeviceGetHandleByIndex(int(first))
            if first.isdigit()
            else pynvml.nvmlDeviceGetHandleByUUID(first)
        )
        index = pynvml.nvmlDeviceGetIndex(handle)
    except pynvml.NVMLError:
        return dict

    def sample() -> Sample:
        try:
            used = pynvml.nvmlDeviceGetMemoryInfo(handle).used
            busy = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
        except pynvml.NVMLError:  # a MIG slice tells memory but no utilisation
            return {}
        return {f"gpu_{index}_percent": float(busy), f"gpu_{index}_memory_mib": int(used) / _MIB}

    return sample


class Summary:
    """Samples of many workers as one series a quantity, however many units a stage has."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._bins: dict[int, dict[str, dict[str, list[float]]]] = defaultdict(
            lambda: defaultdict(lambda: defaultdict(list))
        )

    def add(self, line: Mapping[str, Any]) -> None:
        """A line that `sampled` wrote. One of an earlier run, whose unit this one goes on with, does not count."""
        if line["time"] >= self._began:
            for name, value in line["sample"].items():
                self._bins[int((line["time"] - self._began) // BIN_S)][name][line["worker"]].append(value)

    def take(self, until: float) -> list[tuple[str, float, int, float]]:
        """(name, value, seconds since the run began, time) of every bin that ended before `until`.

        A worker counts with its mean; workers add up, but those of one GPU see the same one.
        """
        taken = []
        for index in sorted(index for index in self._bins if self._began + (index + 1) * BIN_S < until):
            found, step = self._bins.pop(index), int(index * BIN_S)
            for name, workers in found.items():
                means = [sum(values) / len(values) for values in workers.values()]
                value = max(means) if name.startswith("gpu_") else sum(means)
                taken.append((f"system/{name}", value, step, self._began + step))
            taken.append(("system/workers", float(len(found["cpu_percent"])), step, self._began + step))
        return taken
