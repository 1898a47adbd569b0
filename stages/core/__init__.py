"""Mathematics and types that every room shares: torch, numpy and pydantic, nothing else."""
