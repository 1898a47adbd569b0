"""What a set of (noise, sample) pairs looks like before anything is trained on it."""

from collections.abc import Iterable, Mapping

from torch import Tensor


def moments(noise: Tensor, x0: Tensor) -> Mapping[str, float]:
    """The sums over all elements of pairs noise, x0 [N, ...] that `pair_statistics` needs; sums of parts add up."""
    noise, x0 = noise.detach().double(), x0.detach().double()
    return {
        "count": float(noise.numel()),
        "noise": noise.sum().item(),
        "noise_squared": noise.square().sum().item(),
        "x0": x0.sum().item(),
        "x0_squared": x0.square().sum().item(),
        "product": (noise * x0).sum().item(),
        "gap_squared": (noise - x0).square().sum().item(),
    }


def pair_statistics(parts: Iterable[Mapping[str, float]]) -> Mapping[str, float]:
    """Statistics of pairs, from the `moments` of their parts; in units of a sample's elements.

    transport_cost: mean over pairs and elements of (noise - x0)^2, what optimal transport makes small.
    correlation: of noise with x0, over all elements of all pairs; 0 for independent pairs. noise_mean,
    noise_std: 0 and 1, or a model that starts from N(0, 1) starts from a law it was not trained on.
    data_mean, data_std: of x0.
    """
    parts = list(parts)
    count = sum(part["count"] for part in parts)
    mean = {name: sum(part[name] for part in parts) / count for name in parts[0]}
    noise_std = (mean["noise_squared"] - mean["noise"] ** 2) ** 0.5
    data_std = (mean["x0_squared"] - mean["x0"] ** 2) ** 0.5
    return {
        "transport_cost": mean["gap_squared"],
        "correlation": (mean["product"] - mean["noise"] * mean["x0"]) / (noise_std * data_std),
        "noise_mean": mean["noise"],
        "noise_std": noise_std,
        "data_mean": mean["x0"],
        "data_std": data_std,
    }
