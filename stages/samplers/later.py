"""A field from one of its nodes on, for a rule that begins there."""

from torch import Tensor

from stages.samplers.field import Field
from stages.samplers.grid import Grid, build


class Later(Field):
    """Node 0 of its grid is node `first` of the other field's, which answers for it and remembers."""

    def __init__(self, field: Field, first: int, x: Tensor) -> None:
        """`x` [B, ...] as for any field."""
        grid = build(field.grid.path, field.grid.times[first:])
        super().__init__(field._velocity, grid, x, field.counts)
        self._field, self._first = field, first

    def velocity(self, x: Tensor, i: int) -> Tensor:
        """The other's, at its own node."""
        return self._field.velocity(x, i + self._first)

    def on(self, grid: Grid, x: Tensor) -> Field:
        """As the other has it."""
        return self._field.on(grid, x)
