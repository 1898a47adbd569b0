"""What a stage will take, told before it does anything."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Memory:
    """Of a training, in bytes by what holds them, and in parameters."""

    trained: int
    """Parameters of all roles that an optimiser moves."""
    frozen: int
    """Those of networks that stay as they are, each counted once."""
    weights: int
    """Of all roles and averages."""
    gradients: int
    optimiser: int
    activations: int
    """What the largest trained network holds for its backward pass, of one slice of the batch."""

    @property
    def total(self) -> int:
        """All of it at once."""
        return self.weights + self.gradients + self.optimiser + self.activations

    def parted(self, workers: int) -> "Memory":
        """Of each of so many workers that hold a part of every network, on average."""
        shared = {name: -(-getattr(self, name) // workers) for name in ("weights", "gradients", "optimiser")}
        return replace(self, **shared)


@dataclass(frozen=True)
class Needs:
    """Of a stage; None and 0 where it takes nothing of the kind."""

    memory: Memory | None = None
    forward: int = 0
    """Samples that pass through networks, or through a part of one."""
    backward: int = 0
    """Those whose gradient comes back."""
    scored: int = 0
    """Samples that rewards judge."""
    files: int = 0
    """Bytes of its artefact, where that is large."""
    encoders: int = 0
    """Bytes of the encoders that whoever looks a prompt up needs beside it, where there is no table."""
