"""scale.py's figures as Markdown."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

Figures = Mapping[str, Any]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _span(each: Figures) -> str:
    return f"{1000 * each['median_s']:.0f} [{1000 * each['low_s']:.0f}, {1000 * each['high_s']:.0f}]"


def _shards(found: Figures) -> str:
    rows = [
        [name, f"{each['mb_s']:,.0f}", _span(each), f"{each['of_raw']:.2f}"]
        for kind in ("write", "read")
        for name, each in found[kind].items()
    ]
    head = [f"{found['pairs']} pairs, {found['bytes'] / 1e6:.0f} MB", "MB/s", "ms, median [range]", "of raw"]
    return _table(head, rows)


def _noise(found: Figures) -> str:
    rows = [
        [name, f"{each['pairs_s']:,.0f}", f"{each['numbers_s'] / 1e6:,.0f}", _span(each)]
        for name, each in found["found"].items()
    ]
    return _table([f"noise of {found['pairs']} pairs", "pairs/s", "million numbers/s", "ms, median [range]"], rows)


def _walk(found: Figures) -> str:
    rows = [
        [
            each["noise"],
            f"{each['buffer']:,}",
            f"{each['peak_mb']:,.0f}",
            f"{each['pairs_s']:,.0f}",
            f"{each['first_s']:.1f}",
        ]
        for each in found["found"]
    ]
    size = found["pairs"] * found["bytes_a_pair"] / 1e6
    head = [
        f"{found['pairs']:,} pairs, {size:,.0f} MB in float32: noise",
        "buffer",
        "peak, MB",
        "pairs/s",
        "first batch, s",
    ]
    return _table(head, rows)


def _manifest(found: Figures) -> str:
    rows = [
        [f"{count:,}", f"{each['bytes_a_file']:.0f}", f"{each['commit_s']:.2f}", f"{each['verify_s']:.2f}"]
        for count, each in found["files"].items()
    ]
    table = _table(["files of 8 bytes", "manifest bytes a file", "commit, s", "verify, s"], rows)
    return table + f"\nsha256: {found['sha256_mb_s']:,.0f} MB/s\n"


def _tasks(found: Figures) -> str:
    rows = [
        [name, *(f"{1000 * found[key][value]:.1f}" for value in ("a_task_s", "low_s", "high_s"))]
        for name, key in (("Ray", "ray"), ("Prefect through Ray", "prefect_through_ray"))
    ]
    return _table([f"empty task, {found['tasks']} at once", "ms a task, median", "low", "high"], rows)


def _dvc(found: Figures) -> str:
    names = ("commit_s", "status_s", "repro_again_s", "push_s", "push_again_s")
    rows = [
        [kind, f"{count:,}", *(f"{each[name]:.1f}" for name in names)]
        for kind, counts in found.items()
        for count, each in counts.items()
    ]
    return _table(["DVC, s", "objects", "repro", "status", "repro again", "push", "push again"], rows)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds:,.0f} s"


def plan(rows: Sequence[Figures]) -> str:
    """Two tables: what it takes, and what it costs."""
    what, time_, money = [], [], []
    for row in rows:
        name = [f"{row['pairs'] // 10**6} M", row["latent"], row["noise"]]
        size, manifest = f"{row['bytes'] / 1e12:,.2f} TB", f"{row['manifest_bytes'] / 1e6:,.1f} MB"
        what.append([*name, size, f"{row['objects']:,}", f"{row['pairs_a_task']:,.0f}", manifest])
        keys = ("task_overhead_s", "write_s", "sha256_s", "noise_core_s", "sampling_gpu_s")
        time_.append([*name, *(_hours(row[key]) for key in keys)])
        money.append([*name, *(f"{row[key]:,.2f}" for key in ("storage_a_month", "requests", "sampling"))])
    first = ["pairs", "latent", "noise"]
    made = _table([*first, "bytes", "objects = tasks", "pairs a task", "manifest"], what)
    kinds = [
        "task overhead, one driver",
        "writing, one disk",
        "sha256, one core",
        "noise, one core",
        "sampling, one GPU",
    ]
    spent = _table([*first, *kinds], time_)
    paid = _table([*first, "USD a month stored", "USD requests, once", "USD sampling"], money)
    return f"{made}\n{spent}\n{paid}"


TABLES = MappingProxyType(
    {"shards": _shards, "noise": _noise, "walk": _walk, "manifest": _manifest, "tasks": _tasks, "dvc": _dvc}
)
