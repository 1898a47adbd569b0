"""Messages about parameters: a fault's address, what is wrong, what is valid, in one line that no input makes long.

Only the standard library is imported here.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
SHOWN = 80
"""Characters of an input that a message repeats."""
_LISTED = 20
"""Names that a message lists."""


def brief(text: str) -> str:
    """`text`, cut where a message would get too long."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 20]}... ({len(text)} characters)"


def shown(value: object) -> str:
    """A value for a message: in one line, and cut."""
    return brief(repr(value))


def listed(names: Iterable[object]) -> str:
    """Names for a message, not all of very many."""
    known = [brief(str(name)) for name in names]
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return ", ".join(known[:_LISTED]) + more or "none"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that `name` was probably meant to be."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1)), None)


def pick(table: Mapping[str, T], name: str, what: str) -> T:
    """`table[name]`, or a ValueError that lists the valid names and the closest one."""
    if name in table:
        return table[name]
    close = nearest(name, table)
    hint = f"; did you mean {close!r}?" if close else ""
    raise ValueError(f"no {what} is called {shown(name)}{hint} Valid: {listed(sorted(table))}")


def choose(table: Mapping[str, T], name: str, what: str, where: str) -> T:
    """`pick`, for the parameter at address `where`."""
    with at(where):
        return pick(table, name, what)


@contextmanager
def at(where: str) -> Iterator[None]:
    """A ValueError from within opens with the address `where`."""
    try:
        yield
    except ValueError as error:
        raise ValueError("\n".join(f"{where}: {line}" for line in str(error).splitlines())) from None


def join(where: str, *keys: object) -> str:
    """The address of what lies under `where`."""
    return ".".join(brief(str(part)) for part in (where, *keys) if part != "")


def together(*calls: Callable[[], Any]) -> list[Any]:
    """What each call returns; one ValueError with the messages of all that raise one, each message once."""
    made, faults = [], []
    for call in calls:
        try:
            made.append(call())
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError("\n".join(dict.fromkeys(faults)))
    return made
