"""HTML from values: everything that is text is escaped here, and nowhere else."""

import base64
import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from stages.report.records import Row


class Markup(str):
    """A string that already is HTML."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: str) -> Markup:
    """`<tag ...>children</tag>`; children that are no Markup are escaped. Write `class_` for class, `_` for `-`."""
    named = "".join(
        f' {name.strip("_").replace("_", "-")}="{html.escape(value)}"' for name, value in attributes.items()
    )
    return Markup(f"<{tag}{named}>{joined(children)}</{tag}>")


def joined(children: Iterable[str]) -> Markup:
    """Children one after another, escaped where they are no Markup."""
    return Markup("".join(child if isinstance(child, Markup) else html.escape(child) for child in children))


def inline(png: bytes) -> str:
    """A PNG as the address of itself: nothing has to be fetched."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def image(png: bytes, words: str) -> Markup:
    """A picture that `words` describe."""
    return Markup(f'<img src="{inline(png)}" alt="{html.escape(words)}">')


@dataclass(frozen=True)
class Column:
    """A column of a table of rows."""

    heading: str
    name: str
    """Name of the number; the column is left out where no row has it."""
    write: Callable[[float, Row], str]
    hint: str = ""


def table(rows: Sequence[Row], columns: Sequence[Column], divider: Callable[[Row], str]) -> Markup:
    """One line a row, its label first; a line of its own wherever `divider` changes. Wide tables scroll."""
    filled = [column for column in columns if any(row.get(column.name) is not None for row in rows)]
    head = [element("th", "model", scope="col")]
    head += [element("th", column.heading, scope="col", title=column.hint) for column in filled]
    body, group = [], None
    for row in rows:
        if divider(row) != group:
            group = divider(row)
            label = element("th", group, colspan=str(len(filled) + 1), scope="colgroup")
            body.append(element("tr", label, class_="divider"))
        cells = [element("th", row.label, scope="row", class_=f"name {row.group}")]
        for column in filled:
            value = row.get(column.name)
            cells.append(element("td", "–" if value is None else column.write(value, row)))
        body.append(element("tr", *cells))
    inner = element("table", element("thead", element("tr", *head)), element("tbody", *body))
    return element("div", inner, class_="scroll")


def pairs(facts: Iterable[tuple[str, str]]) -> Markup:
    """A table of two columns: what, and its value."""
    lines = [element("tr", element("th", name, scope="row"), element("td", value)) for name, value in facts]
    return element("div", element("table", element("tbody", *lines), class_="pairs"), class_="scroll")
