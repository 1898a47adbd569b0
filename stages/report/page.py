"""The page itself: one file, read without a network and without knowing this project."""

import json
from collections.abc import Iterator, Mapping

from matplotlib.figure import Figure

from stages.report import tables
from stages.report.markup import Markup, element, image, joined, pairs
from stages.report.pictures import picture, shown
from stages.report.records import SPLITS, Study
from stages.report.style import CSS
from stages.report.theme import LIGHT, svg

_TERMS = (
    (
        "n trainings",
        "How often an arm was trained, each time from another seed. With several, numbers are means, and the interval behind "
        "n is Student's 95\u00a0% interval of the mean over trainings. Of one training there is none: another might differ.",
    ),
    (
        "NFE",
        "Network function evaluations: how many steps a sample takes. A step under guidance runs the network twice.",
    ),
    (
        "Guidance w",
        "Classifier-free guidance: extrapolate from the velocity without a prompt to the one with it; w = 1 is none. It costs "
        "no training, hence it is the baseline that RL has to beat.",
    ),
)


def page(study: Study, figures: Mapping[str, Figure]) -> str:
    """The whole report as HTML; `figures` by their names in `stages/report/__init__.py`."""
    body = element("main", _header(study), tables.cards(study), *_sections(study, figures), _footer())
    head = element(
        "head",
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        element("title", "fewstep report"),
        element("style", Markup(CSS)),
    )
    return f"<!doctype html>\n{element('html', head, element('body', body), lang='en')}\n"


def _header(study: Study) -> Markup:
    judged = (
        f"judged by a verifier that reads the {_listed(list(study.attributes))} off every sample. All models answer the same two questions: do the "
        f"samples show what was asked for (score), and do they look like the real data (Fréchet distance)?"
        if study.attributes
        else f"scored by {_listed(list(study.qualities.values()))}. There is no verifier here, hence no score of its own."
    )
    if not study.real:
        judged += " There are no real images to compare samples with: the data set has prompts alone."
    if study.left_out:
        lacks = "real images" if not study.real else "a verifier that sees"
        judged += f" Left out, since it needs {lacks}: {_listed(study.left_out)}."
    return element(
        "header",
        element("h1", "Few steps, measured"),
        element(
            "p",
            f"A generator that needs many network calls per sample (the teacher) was distilled into students that need few, "
            f"and tuned with rewards. Each was then asked for the same prompts from the same noise, and {judged}",
        ),
    )


def _sections(study: Study, figures: Mapping[str, Figure]) -> list[Markup]:
    yes, no = element("span", class_="key right"), element("span", class_="key wrong")
    looks = (
        joined(
            [
                "Same noise and prompt in each column.",
                *(
                    [" Frame: the verifier finds ", yes, " all, ", no, " not all of what was asked."]
                    * bool(study.attributes)
                ),
            ]
        )
        if study.gallery.pictorial
        else joined(["The same noise for every model, over real test samples; the first two coordinates."])
    )
    return [
        _section("How to read this", "", _guide(study)),
        _section(
            "Leaderboard",
            "Hover over a heading for what it means. Score: higher is better; distance: lower.",
            tables.leaderboard(study),
        ),
        *_frontier(figures),
        _section(
            "Quality against network calls",
            "The teacher at several numbers of Euler steps, and each student at its own.",
            _drawn(figures["quality_nfe"], "Quality against network calls"),
        ),
        _section(
            "Which arms differ",
            "By Welch's t-test over trainings, pair by pair; of twenty pairs of equals one differs by chance at p = 0.05.",
            tables.comparisons(study),
        ),
        _section("Samples", looks, _gallery(study, figures["samples"])),
        *_attributes(study),
        *(
            [
                _section(
                    "Each task by itself",
                    "Share of samples with all that their prompts ask for, by kind of prompt; the score is over all kinds alike.",
                    tables.tasks(study),
                )
            ]
            if study.tasks
            else []
        ),
        _section(
            "What training cost",
            "Counted in samples, over every network: the teacher, critics and averages, and the pairs that an arm draws for itself, "
            "are included. By network: cost.json of each model.",
            tables.training(study),
        ),
        _section(
            "Where this comes from",
            "Equal inputs, parameters and seed give this very page. What took how long is in MLflow and in the run's timeline.",
            _origin(study),
        ),
    ]


def _frontier(figures: Mapping[str, Figure]) -> list[Markup]:
    if "score_distance" not in figures:
        return []
    words = (
        "The two pull against each other: few steps, guidance and RL can raise the score by giving up variety, so a result "
        "is a point in this plane. Up and to the left is better. The grey band is what guidance alone reaches; an RL point "
        "is worth its training only above or to the left of it. Bars are 95\u00a0% intervals over samples; wide pale ones, over "
        "the n trainings of an arm."
    )
    drawn = _drawn(figures["score_distance"], "Score against Fréchet distance for every model")
    return [_section("Score against Fréchet distance", words, drawn)]


def _attributes(study: Study) -> list[Markup]:
    words = "Share of samples in which the verifier finds this attribute as asked."
    return [_section("Each attribute by itself", words, tables.attributes(study))] if study.attributes else []


def _section(title: str, words: str, *children: str) -> Markup:
    return element("section", element("h2", title), *([element("p", words)] if words else []), *children)


def _drawn(figure: Figure, words: str) -> Markup:
    width = f"max-width: {figure.get_figwidth() * 115:.0f}px"
    return element("figure", Markup(svg(figure, LIGHT)), role="img", aria_label=words, style=width)


def _guide(study: Study) -> Markup:
    terms = [*_measured(study), *_TERMS]
    if study.distance:
        terms.append(
            (
                "Precision, recall",
                "Are samples within the real data's reach, and is the real data within theirs? Variety lost shows in recall.",
            )
        )
    return element("dl", *(joined([element("dt", name), element("dd", meaning)]) for name, meaning in terms))


def _measured(study: Study) -> Iterator[tuple[str, str]]:
    """What the verifier's numbers mean, where it gives any."""
    real, count = study.real, study.counts
    composes = "heldout" in study.splits
    if study.splits:
        splits = " and ".join(f"{count[f'prompts_{split}']} {SPLITS[split]}" for split in study.splits)
        heldout = (
            " Held-out prompts were never trained on: they ask for known words in new combinations." if composes else ""
        )
        ceiling = (
            f" Real test images score {real.numbers['score_test']:.3f}: the verifier's own ceiling." if real else ""
        )
        yield (
            "Score",
            f"Share of samples with every attribute as asked ({_listed(list(study.attributes))}), on {splits}, "
            f"{study.parameters['evaluate']['num_samples']} samples each, with Wilson's 95\u00a0% interval over samples.{heldout}"
            f"{ceiling}",
        )
    if study.distance and real:
        floor = (
            "; a model that composes can come nearer, since they lack the held-out prompts"
            if composes
            else ": the floor"
        )
        yield (
            "Fréchet distance",
            f"Between Gaussians fitted to the verifier's features of samples (asked for the test images' prompts) and of the "
            f"{count['test_images']} real test images. It is not FID: the features are this verifier's. "
            f"Real training images are at {tables.digits(real.numbers['frechet_distance'])} from the test images{floor}.",
        )
    if not study.splits:
        yield "Prompts", f"{count['prompts_seen']} seen ones, and {count['prompts_heldout']} that training never saw."


def _gallery(study: Study, figure: Figure) -> Markup:
    if not study.gallery.pictorial:
        return _drawn(figure, "Samples of every model over real test samples")
    gallery = study.gallery
    head = [element("th", "")]
    for prompt, apart in zip(gallery.prompts, gallery.heldout, strict=True):
        head.append(element("th", prompt, *([element("em", "held out")] if apart else []), scope="col"))
    lines = []
    for row in shown(study):
        cells = [element("th", row.label, scope="row", class_=f"name {row.group}")]
        for prompt, sample, good in zip(gallery.prompts, gallery.pictures[row.id], gallery.right[row.id], strict=True):
            verdict = ("right" if good else "wrong") if study.attributes else "unjudged"
            words = f"{row.label}: {prompt}{f', {verdict}' if study.attributes else ''}"
            cells.append(element("td", element("span", image(picture(sample), words)), class_=verdict))
        lines.append(element("tr", *cells))
    inner = element("table", element("thead", element("tr", *head)), element("tbody", *lines), class_="samples")
    return element("div", inner, class_="scroll")


def _origin(study: Study) -> Markup:
    facts = [("seed", str(study.seed)), *((name, digest) for name, digest in study.digests.items())]
    blocks = [element("h3", "Inputs, by the sha256 of their manifests"), pairs(facts), element("h3", "Parameters")]
    for name, section in [*study.parameters.items(), ("statistics of the pairs", study.pairs)]:
        values = pairs((key, json.dumps(value, ensure_ascii=False)) for key, value in section.items())
        blocks.append(element("details", element("summary", name), values))
    return joined(blocks)


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _footer() -> Markup:
    return element(
        "footer",
        "Made by fewstep, stage evaluate. The numbers of this page are in metrics.json and leaderboard.csv beside it; its "
        "copy in MLflow, with the pipeline's run, also shows what waited for what while all this was made.",
    )
