"""What a local Ray's worker imports while it waits for work: libraries, nothing of ours.

Only workers that `warm_workers` asked for ahead of their work do so. One that Ray starts for work that waits imports
what that work needs, and Ray Train's helpers need none of this.

A warm worker must not hold code that has been edited since. The collector would walk all that is imported again and
again, for nothing: without it this takes a fifth less, and what stays for good is frozen out of its sight.
"""

import contextlib
import gc
import importlib

from flows.runtime.environment import TICKETS

_SLOW = (
    "torch",
    "prefect.task_engine",
    "safetensors.torch",
    # What stages.models imports as soon as it builds or reads a network.
    "diffusers.models.transformers.transformer_sd3",
    "transformers.models.clip.modeling_clip",
)


def _is_asked_for() -> bool:
    for ticket in TICKETS.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another worker was faster
            ticket.unlink()
            return True
    return False


if _is_asked_for():
    gc.disable()
    for _name in _SLOW:
        importlib.import_module(_name)
    gc.enable()
    gc.freeze()
