"""A study with a row of every kind, and a reader of the page that shows it."""

from dataclasses import replace
from html.parser import HTMLParser

import torch

from stages.report import Gallery, Row, Study


def row(group: str, name: str, nfe: int, score: float, distance: float, guidance: float = 1.0, **more: float) -> Row:
    numbers = {"nfe": nfe, "network_calls": nfe if guidance == 1 else 2 * nfe, "guidance": guidance}
    numbers |= {"parameters": 439e3, "frechet_distance": distance, "precision": 0.9, "recall": 0.8}
    for split, shift in (("seen", 0.0), ("heldout", -0.1)):
        value = score + shift
        numbers |= {f"score_{split}": value, f"score_{split}_low": value - 0.03, f"score_{split}_high": value + 0.02}
        numbers[f"accuracy_{split}_digit"] = value + 0.01
    return Row(id=f"{group}.{name}", group=group, label=name, numbers=numbers | more)


def study() -> Study:
    real = row("real", "images", 1, 0.98, 4.25)
    measured = {name: value for name, value in real.numbers.items() if name not in ("nfe", "guidance")}
    real = replace(real, numbers=measured | {"score_test": 0.975})
    rows = [
        real,
        row("teacher", "nfe8", 8, 0.70, 30.0, training_network_evaluations=192000.0),
        row("teacher", "nfe32", 32, 0.64, 25.0, training_network_evaluations=192000.0),
        row("guidance", "w3", 8, 0.77, 188.0, guidance=3.0),
        row("guidance", "w2", 8, 0.81, 100.0, guidance=2.0),
        row("distill", "tdm1", 1, 0.613, 29.0, training_network_evaluations=4.1e6),
        row("rl", "dgpo", 8, 0.92, 201.0),
    ]
    generator = torch.Generator().manual_seed(0)
    return Study(
        rows=rows,
        gallery=Gallery(
            prompts=["a thin upright 3", "a bold <left> 7"], heldout=[False, True],
            pictures={r.id: torch.rand(2, 1, 8, 8, generator=generator) for r in rows},
            right={r.id: [True, False] for r in rows},
        ),
        attributes=["digit"], tasks=[],
        counts={"train_images": 5, "test_images": 359, "prompts_seen": 66, "prompts_heldout": 18},
        pairs={"correlation": 0.4375},
        parameters={"evaluate": {"num_samples": 1000}, "distill@tdm1": {"method": "<script>alert(1)</script>"}},
        digests={"teacher": "f00d" * 16},
        seed=17,
    )  # fmt: skip


def without_heldout(full: Study) -> Study:
    rows = [replace(r, numbers={k: v for k, v in r.numbers.items() if "heldout" not in k}) for r in full.rows]
    return replace(full, rows=rows, gallery=replace(full.gallery, heldout=[False, False]))


class Reader(HTMLParser):
    """Text of table rows, addresses of everything that a browser would fetch, and whether tags are balanced."""

    VOID = frozenset({"meta", "img", "br", "path", "use"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows, self.fetched, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.fetched += [named[key] for key in ("src", "href", "xlink:href", "srcset", "data") if key in named]
        assert tag not in ("script", "link", "iframe", "object", "base"), f"a report needs no <{tag}>"
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
