"""A section `compute` of the parameters."""

from tests.waiting import PATIENCE_S

COMPUTE = {
    "backend": "local", "address": None, "num_cpus": 2, "device": "cuda",
    "cpus": {"default": 1, "teacher": 2}, "gpus": {"default": 0.0, "rl": 1.0}, "stall_s": PATIENCE_S,
    "place_s": PATIENCE_S,
    "workers": {"default": 1}, "nodes": None, "resources": {},
    "rewards": {"workers": 0, "cpus": 1, "gpus": 0.0, "resources": {}, "python": None},
    "encoders": {"workers": 1, "cpus": 1, "gpus": 0.0, "resources": {}, "python": None}, "text_gib": 1.0,
}  # fmt: skip
