"""Who else computes the same unit: the rank of this process among equal workers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ranks:
    """Worker `rank` of `world` that share one unit's work; rank 0 alone writes and reports."""

    rank: int
    world: int

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank {self.rank} of {self.world}: ranks count from 0")

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of `count` equal parts are this worker's, consecutive ones; ValueError if there are none for each."""
        if count % self.world:
            raise ValueError(f"{self.world} workers cannot share {count} slices alike; name a divisor of {count}")
        each = count // self.world
        return range(self.rank * each, (self.rank + 1) * each)


ALONE = Ranks(0, 1)
