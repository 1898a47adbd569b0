"""Refusals that name the culprit: a number that is not finite ends a run, it is never carried on."""

from torch import Tensor

from stages.core.errors import NotFiniteError


def finite(value: Tensor, what: str, advice: str) -> Tensor:
    """`value` itself, or a NotFiniteError saying how many of its entries are not finite and what to do."""
    bad = int((~value.isfinite()).sum())
    if bad:
        raise NotFiniteError(f"{what}: {bad} of {value.numel()} values are not finite; {advice}")
    return value
