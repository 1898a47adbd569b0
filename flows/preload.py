"""What a local Ray's worker imports while it waits for work: libraries, nothing of ours.

A warm worker must not hold code that has been edited since. The collector would walk all that is imported again and
again, for nothing: without it this takes a fifth less, and what stays for good is frozen out of its sight.
"""

import gc
import importlib

_SLOW = (
    "torch",
    "prefect.task_engine",
    "safetensors.torch",
    # What stages.models imports as soon as it builds or reads a network.
    "diffusers.models.transformers.transformer_sd3",
    "transformers.models.clip.modeling_clip",
)

gc.disable()
for _name in _SLOW:
    importlib.import_module(_name)
gc.enable()
gc.freeze()
