"""What a set of (noise, sample) pairs looks like before anything is trained on it."""

from collections.abc import Mapping

from torch import Tensor


def pair_statistics(noise: Tensor, x0: Tensor) -> Mapping[str, float]:
    """Statistics of pairs noise, x0 [N, ...]; in units of a sample's elements.

    transport_cost: mean over pairs and elements of (noise - x0)^2, what optimal transport makes small.
    correlation: of noise with x0, over all elements of all pairs; 0 for independent pairs. noise_mean,
    noise_std: 0 and 1, or a model that starts from N(0, 1) starts from a law it was not trained on.
    data_mean, data_std: of x0.
    """
    noise, x0 = noise.detach().double(), x0.detach().double()
    noise_std, data_std = noise.std(correction=0), x0.std(correction=0)
    together = ((noise - noise.mean()) * (x0 - x0.mean())).mean()
    return {
        "transport_cost": (noise - x0).square().mean().item(),
        "correlation": (together / (noise_std * data_std)).item(),
        "noise_mean": noise.mean().item(),
        "noise_std": noise_std.item(),
        "data_mean": x0.mean().item(),
        "data_std": data_std.item(),
    }
