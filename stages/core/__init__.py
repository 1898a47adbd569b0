"""Mathematics and types that every package shares: torch, numpy and pydantic, nothing else."""
