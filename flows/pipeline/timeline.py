"""The run as a picture: what each stage and unit waited for, and when it computed. One HTML file, no scripts."""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.project import graph
from flows.project.nodes import Node, Params
from flows.runtime.environment import HOME
from flows.tracking import records

KINDS = {
    "inputs": "waits for its inputs",
    "slot": "waits for a free place",
    "overhead": "starts, hashes, records",
    "computing": "computes",
    "failed": "failed",
}
MAX_UNITS = 60
"""Rows a stage gets for its units; the longest are shown."""
_WIDTH, _LEFT, _ROW, _UNIT = 1100, 190, 24, 13
CSS = """
.timeline { font: 13px/1.5 system-ui, sans-serif; color: #1c2733; max-width: 1180px; margin: 2rem auto }
.timeline svg { width: 100%; height: auto }
.timeline text { font: 12px system-ui, sans-serif; fill: #1c2733 }
.timeline .small { font-size: 10px; fill: #5b6b7b }
.timeline .grid { stroke: #dfe5ea }
.timeline .key { margin-right: 1.4em }
.timeline .key i { display: inline-block; width: 1em; height: .8em; margin-right: .4em; border-radius: 2px }
.timeline .inputs { fill: #e3e8ec; background: #e3e8ec }
.timeline .slot { fill: #f0b440; background: #f0b440 }
.timeline .overhead { fill: #9fb4c7; background: #9fb4c7 }
.timeline .computing { fill: #2f7d5b; background: #2f7d5b }
.timeline .failed { fill: #c0392b; background: #c0392b }
.timeline .unit { fill: #7fc0a0 }
.timeline .queued { fill: #f6dba3 }
.timeline table { border-collapse: collapse; margin-top: 1rem }
.timeline td, .timeline th { text-align: right; padding: .1rem .9rem }
.timeline td:first-child, .timeline th:first-child { text-align: left }
@media (prefers-color-scheme: dark) {
  .timeline, .timeline text { color: #d9e1e8; fill: #d9e1e8 }
  .timeline .grid { stroke: #37424d }
  .timeline .inputs { fill: #37424d; background: #37424d }
}
"""


@dataclass(frozen=True)
class Bar:
    """Something that lasted, in seconds since the run began."""

    kind: str
    start: float
    end: float


@dataclass(frozen=True)
class Unit:
    """A unit's computation, and since when it could have begun."""

    name: str
    submitted: float
    start: float
    end: float
    worker: str


@dataclass(frozen=True)
class Row:
    """A stage of the run."""

    name: str
    bars: tuple[Bar, ...]
    units: tuple[Unit, ...]

    def total(self, kind: str) -> float:
        """Seconds of it."""
        return sum(bar.end - bar.start for bar in self.bars if bar.kind == kind)


def rows(params: Params, times: Mapping[str, Any]) -> Iterator[Row]:
    """What ran in the run that `times` tells of, {started, finished, stages: {name: {started, finished, code}}}."""
    began, stages = times["started"], times["stages"]
    found = []
    for node, reads in graph.nodes(params).items():
        own = stages.get(node.name)
        if own is None:
            continue
        ready = max((stages[each.name]["finished"] for each in reads if each.name in stages), default=began)
        found.append(_row(node, own, ready, began))
    yield from sorted(found, key=lambda row: min((bar.start for bar in row.bars if bar.kind != "inputs"), default=0.0))


def _row(node: Node, own: Mapping[str, Any], ready: float, began: float) -> Row:
    start, end = own["started"], own["finished"]
    ready = min(max(ready, began), start)
    record = records.read(node) if own["code"] == 0 else None
    spans = [span for span in (record or {}).get("spans", []) if start <= span["start"] and span["end"] <= end + 1]
    bars = [Bar("inputs", began, ready), Bar("slot", ready, start)]
    at, other = start, "overhead" if own["code"] == 0 else "failed"
    for first, last in _united(spans):
        bars += [Bar(other, at, first), Bar("computing", first, last)]
        at = last
    bars.append(Bar(other, at, max(at, end)))
    planned = max((span["end"] for span in spans if span["task"] == "plan"), default=start)
    units = [
        Unit(s["unit"], planned - began, s["start"] - began, s["end"] - began, f"{s['host']}:{s['pid']}")
        for s in sorted(spans, key=lambda span: span["start"])
        if s["task"] == "work"
    ]
    shifted = tuple(Bar(b.kind, b.start - began, b.end - began) for b in bars if b.end > b.start)
    longest = sorted(units, key=lambda unit: unit.start - unit.end)[:MAX_UNITS]
    return Row(node.name, shifted, tuple(unit for unit in units if unit in longest) if len(units) > 1 else ())


def _united(spans: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    whole: list[tuple[float, float]] = []
    for span in sorted(spans, key=lambda each: each["start"]):
        if whole and span["start"] <= whole[-1][1]:
            whole[-1] = (whole[-1][0], max(whole[-1][1], span["end"]))
        else:
            whole.append((span["start"], span["end"]))
    return whole


def section(params: Params, times: Mapping[str, Any], tag: str) -> str:
    """The timeline as a piece of HTML."""
    found, length = list(rows(params, times)), max(times["finished"] - times["started"], 0.001)
    keys = "".join(f'<span class="key"><i class="{kind}"></i>{words}</span>' for kind, words in KINDS.items())
    outcome = "" if times["status"] == "FINISHED" else f", {times['status'].lower()}"
    return (
        f'<section class="timeline"><style>{CSS}</style><h2>What waited for what</h2>'
        f"<p>{html.escape(tag)}: {length:.1f} s{outcome}. Thin lines are units: pale while a unit waits for a worker. "
        f"Hover for names, workers and seconds.</p><p>{keys}</p>{_svg(found, length)}{_table(found)}</section>"
    )


@dataclass(frozen=True)
class _Line:
    """Where rectangles stand: a row of the picture."""

    top: float
    height: float
    scale: float
    """Pixels a second."""

    def rect(self, kind: str, start: float, end: float, words: str) -> str:
        """From `start` to `end`; its words show where the pointer rests."""
        if end <= start:
            return ""
        title = html.escape(f"{words}: {end - start:.2f} s, from {start:.1f} s on")
        width = max((end - start) * self.scale, 0.6)
        where = f'x="{_LEFT + start * self.scale:.1f}" y="{self.top:g}" width="{width:.1f}" height="{self.height:g}"'
        return f'<rect class="{kind}" {where} rx="2"><title>{title}</title></rect>'


def _svg(found: Sequence[Row], length: float) -> str:
    scale, parts, y = (_WIDTH - _LEFT - 50) / length, [], 22
    for row in found:
        parts.append(f'<text x="0" y="{y + 14}">{html.escape(row.name)}</text>')
        line = _Line(y + 3, 15, scale)
        parts += [line.rect(bar.kind, bar.start, bar.end, f"{row.name} {KINDS[bar.kind]}") for bar in row.bars]
        last = max((bar.end for bar in row.bars), default=0.0)
        parts.append(f'<text class="small" x="{_LEFT + last * scale + 4:.1f}" y="{y + 14}">{last:.1f} s</text>')
        y += _ROW
        for unit in row.units:
            parts.append(f'<text class="small" x="14" y="{y + 9}">{html.escape(unit.name[:30])}</text>')
            line, words = _Line(y + 2, 8, scale), f"{row.name} {unit.name}"
            parts.append(line.rect("queued", unit.submitted, unit.start, f"{words} waits for a worker"))
            parts.append(line.rect("unit", unit.start, unit.end, f"{words} on {unit.worker}"))
            y += _UNIT
    ticks = "".join(
        f'<line class="grid" x1="{_LEFT + at * scale:.1f}" x2="{_LEFT + at * scale:.1f}" y1="16" y2="{y}"/>'
        f'<text class="small" x="{_LEFT + at * scale:.1f}" y="11" text-anchor="middle">{at:g} s</text>'
        for at in _ticks(length)
    )
    size = f'viewBox="0 0 {_WIDTH} {y + 6}" role="img" aria-label="Timeline of the run"'
    return f"<svg {size}>{ticks}{''.join(parts)}</svg>"


def _ticks(length: float) -> list[float]:
    steps = [base * 10**power for power in range(-1, 7) for base in (1, 2, 5)]
    step = next((each for each in steps if length / each <= 10), length)
    return [step * index for index in range(int(length / step) + 1)]


def _table(found: Sequence[Row]) -> str:
    shown = [kind for kind in KINDS if any(row.total(kind) for row in found)]
    head = "".join(f"<th>{KINDS[kind]}</th>" for kind in shown)
    lines = "".join(
        f"<tr><td>{html.escape(row.name)}</td>" + "".join(f"<td>{row.total(kind):.1f}</td>" for kind in shown) + "</tr>"
        for row in found
    )
    return f"<table><tr><th>seconds</th>{head}</tr>{lines}</table>"


def write(tag: str, params: Params, times: Mapping[str, Any]) -> dict[str, Path]:
    """The timeline's page, and the report with the timeline in it where this run made one: name -> file.

    data/evaluate/report.html stays as it is: an artefact holds nothing that differs between two equal runs.
    """
    folder = HOME / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    inner, page = section(params, times, tag), folder / f"{tag}.html"
    head = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>fewstep timeline</title></head>'
    page.write_text(f"{head}<body>{inner}</body></html>\n", encoding="utf-8")
    report, evaluated = Path("data/evaluate/report.html"), times["stages"].get("evaluate", {})
    if not report.is_file() or evaluated.get("code") != 0:
        return {"timeline.html": page}
    whole, copy = report.read_text(encoding="utf-8"), folder / f"{tag}.report.html"
    before, end, after = whole.rpartition("</body>")
    copy.write_text(f"{before}{inner}{end}{after}", encoding="utf-8")
    return {"timeline.html": page, "report.html": copy}
