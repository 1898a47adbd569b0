"""Numbers of a method from those of its trainings."""

from collections.abc import Mapping, Sequence

from stages.core.trainings import Spread, spread
from stages.metrics.score import share

Numbers = Mapping[str, float]
_FACTS = ("nfe", "network_calls", "calls_of_reward", "guidance", "parameters")
_COST = "training_"


def together(trainings: Sequence[Numbers], num_samples: int) -> tuple[dict[str, float], dict[str, Spread]]:
    """Means over one method's trainings, and the spreads of what was measured; of a single one its numbers and none.

    Each score is a share of `num_samples` samples, and the interval over samples is that of all of them.
    """
    if len(trainings) == 1:
        return dict(trainings[0]), {}
    found: dict[str, float] = {}
    spreads: dict[str, Spread] = {}
    for name, first in trainings[0].items():
        values = [each[name] for each in trainings]
        is_end = name.startswith("score_") and name.endswith(("_low", "_high"))
        if name not in _FACTS and not name.startswith(_COST) and not is_end:
            spreads[name] = spread(values)
        found[name] = first if len(set(values)) == 1 else sum(values) / len(values)
    for name in [name for name in found if f"{name}_low" in found]:
        right = sum(round(each[name] * num_samples) for each in trainings)
        pooled = share(right, num_samples * len(trainings))
        found |= {f"{name}_low": pooled.low, f"{name}_high": pooled.high}
    return found, spreads
