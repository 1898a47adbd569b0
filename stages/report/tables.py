"""The report's tables and summary cards."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from types import MappingProxyType

from stages.core.trainings import compared
from stages.report.markup import Column, Markup, element, joined, table
from stages.report.records import HELDOUT, SPLITS, Row, Study

GROUPS = MappingProxyType(
    {
        "real": "Real test images, in place of samples",
        "teacher": "Teacher, without guidance, by number of steps",
        "guidance": "Teacher under classifier-free guidance of scale w",
        "distill": "Distilled students, each with its own sampler",
        "rl": "RL-tuned models",
        "steered": "Steered at inference, with a reward",
    }
)
SCORE_HINT = (
    "Share of samples in which the verifier finds every attribute that the prompt asks for; Wilson 95 % interval over "
    "samples. n: Student's 95 % interval over so many trainings"
)
NUMBERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "precision": (
            "precision",
            "Share of samples that lie within the real images' neighbourhoods: are they plausible?",
        ),
        "recall": (
            "recall",
            "Share of real images that lie within the samples' neighbourhoods: is all of the variety there?",
        ),
        "density": ("density", "How many real neighbourhoods a sample lies in, relative to the number of neighbours"),
        "coverage": ("coverage", "Share of real images with a sample in their neighbourhood"),
        "energy_distance": (
            "energy distance",
            "Between samples of a component and exact ones, mean over components; 0 for equal laws, below it by chance",
        ),
        "mean_error": ("error of means", "Mean absolute error of each component's mean, against the closed form"),
        "std_error": (
            "error of stds",
            "Mean absolute error of each component's standard deviation, against the closed form",
        ),
        "wasserstein2": (
            "Wasserstein-2",
            "Between samples of a component and exact ones, by optimal assignment, mean over components; above 0 by chance",
        ),
        "weight_error": (
            "error of weights",
            "Mean absolute error of the share of samples that lie in each component",
        ),
        "nll_error": (
            "error of likelihood",
            "Mean absolute error of each component's negative log-likelihood, in nats, against its entropy",
        ),
        "straightness": ("S(Z)", "How far the model's paths are from straight lines: 0 is straight"),
    }
)
"""Number -> its heading and what it means."""


def leaderboard(study: Study) -> Markup:
    """Every model and every quality."""
    best = study.reference.get("frechet_distance") or math.nan
    columns = [
        Column("NFE", "nfe", whole, "Steps of network evaluation per image; a guided step costs two forward passes")
    ]
    columns += [
        Column(f"score, {SPLITS[split]}", f"score_{split}", score_on(split), SCORE_HINT) for split in study.splits
    ]
    columns += [
        Column(
            "Fréchet distance",
            "frechet_distance",
            lambda value, row: joined(
                [f"{digits(value)} ", small(f"×{digits(value / best)}"), over(row, "frechet_distance", digits)]
            ),
            "On verifier features, samples of the test images' prompts against the real test images; lower is better. "
            "In small print: as a multiple of the reference's",
        )
    ]
    columns += [Column(heading, name, measured(name), hint) for name, (heading, hint) in NUMBERS.items()]
    columns.append(Column("parameters", "parameters", short))
    columns.append(
        Column(
            "trainings", "nfe", lambda _, row: str(row.trainings), "n: where it is 1, intervals are over samples alone"
        )
    )
    for kind, hint in (("reward", "Mean on seen prompts"), ("metric", "Of the test images' prompts")):
        names = sorted({name for row in study.rows for name in row.numbers if name.startswith(f"{kind}_")})
        columns += [
            Column(_heading(kind, name), name, measured(name), _hint(study, kind, name, hint)) for name in names
        ]
    return table(study.rows, columns, lambda row: GROUPS[row.group])


def _heading(kind: str, name: str) -> str:
    own = name.removeprefix(f"{kind}_")
    return f"{kind}: {own.removeprefix(HELDOUT)}{', held out' if kind == 'reward' and own.startswith(HELDOUT) else ''}"


def _hint(study: Study, kind: str, name: str, hint: str) -> str:
    """What the number is, and how the parameters state it."""
    own = name.removeprefix(f"{kind}_")
    if kind == "reward":
        trained = study.parameters.get(f"rl@{own.removeprefix(HELDOUT)}", {}).get("rewards")
        stated = trained or study.parameters["evaluate"].get("rewards", {}).get(own.removeprefix(HELDOUT))
        hint = hint.replace("seen", "held-out") if own.startswith(HELDOUT) else hint
    else:
        stated = study.parameters["evaluate"].get("metrics", {}).get(own)
    return f"{hint}: {json.dumps(stated, ensure_ascii=False)}" if stated else hint


def attributes(study: Study) -> Markup:
    """Accuracy of each attribute on each split."""
    return _by_split(study, study.attributes, "accuracy_{split}_{name}")


def tasks(study: Study) -> Markup:
    """The score of each task on each split."""
    return _by_split(study, study.tasks, "score_{split}_of_{name}")


def _by_split(study: Study, names: Sequence[str], metric: str) -> Markup:
    columns = []
    for name in names:
        for split in study.splits:
            number = metric.format(split=split, name=name)
            columns.append(Column(f"{name}, {SPLITS[split].removesuffix(' prompts')}", number, barred(number)))
    return table(study.rows, columns, lambda row: GROUPS[row.group])


def comparisons(study: Study) -> Markup:
    """Each pair of arms, and whether their trainings tell them apart."""
    rows = study.arms
    if all(row.trainings == 1 for row in rows):
        return element("p", "Every arm was trained once (n = 1): trainings cannot be compared, samples only.")
    names = dict(list(study.qualities.items())[-1:]) | ({study.distance: "Fréchet distance"} if study.distance else {})
    head = [element("th", "arms", scope="col"), *(element("th", name, scope="col") for name in names.values())]
    lines = []
    for one, other in combinations(rows, 2):
        cells = [element("th", f"{one.title} − {other.title}", scope="row")]
        for name in names:
            gap = f"{one.numbers[name] - other.numbers[name]:+.3g}".replace("-", "−")
            words = compared(one.spreads.get(name), other.spreads.get(name))
            cells.append(element("td", joined([f"{gap} ", small(words)])))
        lines.append(element("tr", *cells))
    inner = element("table", element("thead", element("tr", *head)), element("tbody", *lines))
    return element("div", inner, class_="scroll")


def training(study: Study) -> Markup:
    """What each model cost to make, and costs to use."""
    rows, seen = [], set()
    for row in study.of("teacher", "distill", "rl"):
        known = row.group == "teacher" and "teacher" in seen
        if known or not (row.is_arm or row.group == "teacher") or row.get("training_network_evaluations") is None:
            continue
        seen.add(row.group)
        rows.append(row)
    columns = [
        Column("iterations", "training_iterations", whole),
        Column(
            "network evaluations",
            "training_network_evaluations",
            short,
            "Samples that went forward through a network, whole or in part, added up over all networks",
        ),
        Column(
            "of these in part",
            "training_partial_evaluations",
            short,
            "Through the lower half of a network, for the features that a discriminator reads",
        ),
        Column(
            "backward passes", "training_backward_passes", short, "Samples whose gradient came back through a network"
        ),
        Column("samples scored", "training_samples_scored", short, "Samples that a reward judged"),
        Column("parameters", "parameters", short),
        Column("network calls per image", "network_calls", whole),
    ]
    return table(rows, columns, lambda row: "Teacher" if row.group == "teacher" else GROUPS[row.group])


def cards(study: Study) -> Markup:
    """The teacher, and what each student gained or lost against it."""
    drawn = []
    for row in [study.reference, *study.arms]:
        name, title = list(study.qualities.items())[-1]
        big = element("div", joined([f"{row.numbers[name]:.2f}", over(row, name, "{:.2f}".format)]), class_="big")
        unit = element("div", f"{title.replace(', ', ' on ')}{_gain(study, row, name)}", class_="unit")
        lines = (element("li", line) for line in _facts(study, row))
        drawn.append(
            element("div", element("h3", row.title), big, unit, element("ul", *lines), class_=f"card {row.group}")
        )
    return element("div", *drawn, class_="cards")


def _gain(study: Study, row: Row, name: str) -> str:
    """A number's difference to the reference's, in brackets."""
    if row is study.reference:
        return ""
    gain = row.numbers[name] - study.reference.numbers[name]
    return f"\u00a0({gain:+.2f})".replace("-", "\u2212")


def _facts(study: Study, row: Row) -> list[str]:
    calls, most = row.numbers["network_calls"], study.reference.numbers["network_calls"]
    fewer = f", {most / calls:.3g}× fewer" if calls < most else ""
    lines = ["the reference for all others"] if row is study.reference else []
    lines += [f"{calls:.4g} network call{'s' if calls > 1 else ''}{fewer}"]
    if study.distance:
        distance, best = row.numbers[study.distance], study.reference.numbers[study.distance]
        times = "" if row is study.reference else f", ×{digits(distance / best)}"
        lines += [f"Fréchet distance {digits(distance)}{times}"]
    *others, (name, _) = study.qualities.items()
    lines += [
        f"{row.numbers[other]:.2f} {title.replace('score, ', 'on ')}{_gain(study, row, other)}"
        for other, title in others
    ]
    if row.group == "rl" and study.of("guidance"):
        top = max(study.of("guidance"), key=lambda other: other.numbers[name])
        lines.append(f"best guidance: {top.numbers[name]:.2f} (w = {top.numbers['guidance']:g})")
    return lines


def score_on(split: str) -> Callable[[float, Row], Markup]:
    """Writes a share with its interval and a bar."""

    def write(value: float, row: Row) -> Markup:
        low, high = row.numbers[f"score_{split}_low"], row.numbers[f"score_{split}_high"]
        trained = over(row, f"score_{split}", "{:.2f}".format)
        return joined([f"{value:.3f} ", small(f"{low:.2f}–{high:.2f}"), trained, bar(value, row.group)])

    return write


def over(row: Row, name: str, write: Callable[[float], str]) -> Markup:
    """The interval of a number over the row's trainings, if there are several."""
    found = row.spreads.get(name)
    return small(f" n = {found.count}: {write(found.low)}–{write(found.high)}") if found else Markup()


def small(text: str) -> Markup:
    """In small print."""
    return element("span", text, class_="ci")


def bar(share: float, group: str) -> Markup:
    """A share as a length."""
    return element("span", element("i", style=f"width:{100 * share:.1f}%"), class_=f"bar {group}")


def barred(name: str) -> Callable[[float, Row], Markup]:
    """Writes the share `name` with a bar."""
    return lambda value, row: joined([f"{value:.3f}", over(row, name, "{:.2f}".format), bar(value, "real")])


def measured(name: str) -> Callable[[float, Row], Markup]:
    """Writes the number `name` with three decimals."""
    return lambda value, row: joined([f"{value:.3f}", over(row, name, "{:.3f}".format)])


def digits(value: float) -> str:
    """Three significant digits, and no exponent: 201, 25.3, 0.00417."""
    shown = f"{value:#.3g}"
    return f"{value:.0f}" if "e+" in shown else shown.rstrip(".") if "e" not in shown else f"{value:.6f}"


def whole(value: float, _row: Row) -> str:
    """No decimals but of what is not whole, thousands apart."""
    return f"{value:,.{0 if value % 1 == 0 else 1}f}".replace(",", "\u202f")


def short(value: float, _row: Row) -> str:
    """Three digits and a unit: 439 k, 12.3 M."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"
