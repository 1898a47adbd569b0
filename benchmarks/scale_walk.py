"""One epoch of a training's reader in a process of its own, for scale.py: peak memory over the start, and pace.

python benchmarks/scale_walk.py <folder of pairs> <pairs in the buffer>
"""

import json
import resource
import sys
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from stages.io.pairs import Pairs
from stages.training.walk import Walk

BATCH = 256


def main(folder: Path, buffer: int) -> None:
    """Read, measure, print JSON."""
    pairs = Pairs(folder)
    before, start = psutil.Process().memory_info().rss, time.perf_counter()
    walk = Walk(pairs.rows, pairs.read, buffer=buffer, batch_size=BATCH, seed=0)
    walk(0)
    first = time.perf_counter() - start
    batches = sum(pairs.rows) // BATCH
    for iteration in range(1, batches):
        walk(iteration)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps(
            {
                "peak_mb": (peak - before) / 1e6,
                "first_s": first,
                "seconds": seconds,
                "pairs_s": batches * BATCH / seconds,
            }
        )
    )


main(Path(sys.argv[1]), int(sys.argv[2]))
