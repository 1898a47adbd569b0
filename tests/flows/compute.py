"""A section `compute` of the parameters."""

COMPUTE = {
    "backend": "local", "address": None, "num_cpus": 2, "device": "cuda",
    "cpus": {"default": 1, "teacher": 2}, "gpus": {"default": 0.0, "rl": 1.0}, "stall_s": 9.0, "place_s": 9.0,
    "workers": {"default": 1}, "nodes": None, "resources": {},
    "rewards": {"workers": 0, "cpus": 1, "gpus": 0.0, "resources": {}},
}  # fmt: skip
