"""Every step rule, on several schedules, with equal calls: the table and the figure of what came of it.

    fewstep run experiment=bench_samplers    # three teachers of the digits; `make bench-samplers` does both
    python benchmarks/samplers.py            # samples, resumable, and writes docs/samplers.md and its figure
    python benchmarks/samplers.py --guided   # the same with guidance, into tables and a figure of its own
    python benchmarks/samplers.py --shapes   # a teacher of scenes in colour, that of experiment=bench_shapes

Two kinds of model are sampled from the same noise by everyone. `mixture` is a closed form, in float64: eight components
in a plane. `digits` are three teachers: numbers are means over them, with Student's 95 % interval, and a claim is
judged by the differences within a teacher. The error is the root mean square, over elements, of the distance to where
the probability-flow ODE leads; of a rule that draws noise only the distance to real images is told. Each rule has as
many steps as fit into the calls, so that none makes more; of a field that saves a part of a call, as many as cost that.
Fields, what is fitted to a model, and shifted times are run on digits without guidance alone; samplers are fitted to
teachers for few calls. Results are kept in .fewstep/samplers, a file each.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.pages import ask_for, manifests, put  # noqa: E402
from benchmarks.samplers_models import FINE_STEPS, GRID_STEPS, MIXTURE_SAMPLES, Mixture, Sampled, Teacher  # noqa: E402
from benchmarks.samplers_page import (  # noqa: E402
    CALLS,
    GUIDED,
    NODES,
    SCHEDULES,
    SHAPES,
    WAYS,
    Found,
    Results,
    Way,
    draw,
    page,
)
from benchmarks.tasks import side_by_side  # noqa: E402
from stages.core.config import check  # noqa: E402
from stages.core.spec import SamplerSpec  # noqa: E402
from stages.io.artefacts import sha256_of, write_json  # noqa: E402
from stages.samplers import rule_of  # noqa: E402
from stages.samplers.fields import FIELDS  # noqa: E402
from stages.samplers.fields.mag_cache import MagCache  # noqa: E402
from stages.samplers.spec import Sampler, calls, most_steps  # noqa: E402

PARTS: Mapping[str, tuple[Sequence[Way], str]] = {
    "": (WAYS, "experiment=bench_samplers"),
    "guided": (GUIDED, "experiment=bench_samplers"),
    "shapes": (SHAPES, "experiment=bench_shapes"),
}
"""Of the page, each with marks and a figure of its own: what is sampled how, and the preset that makes the teachers."""
SA = {"name": "sa_solver", "until": 0.2, "since": 0.8, "predictor": 3, "corrector": 4, "few_steps": False}
V3 = {
    "name": "dpm_solver_v3",
    **{"order": 2, "predictor": "full", "corrector": "pseudo", "corrected_until": 1.0},
    **{"num_levels": 32, "hi": 80.0, "lo": 0.02, "derivative": {"name": "difference", "step": 0.02}},
}
JUMPED = {"name": "teleport", "then": {"name": "unipc"}}
LEFT_OPEN = {"mean": None, "rest": 0.1, "directions": [], "variances": []}
INTERVALS = [{"lo": 0.06, "hi": 0.3, "steps": 2, "repeats": 2}]
EVERY_SECOND = {"name": "taylor_seer", "every": 2, "warm_up": 1, "differences": "newton"}
MERGED = {"name": "token_merging", "share": 0.5, "stride": 2, "counted": True}
REGIONS = {"name": "ras", "share": 0.5, "warm_up": 2, "every": 4, "high": 1.0, "starvation": 0.1}
BROADCAST = {"name": "pab", "every": 2, "until": 0.1, "since": 0.8}
FASTER = {
    "name": "faster_cache",
    **{"every": 2, "since": 0.7, "weight": 0.5, "empty_every": 2, "boundary": 0.5, "low": 1.0, "high": 1.0},
}
OUTER = {"name": "light_cache", "every": 2, "first": 1, "last": 1}
CURVED = {
    "name": "sada",
    **{"extrapolator": "paper", "since": 0.2, "late": 0.48, "until": 0.94, "most": 4, "interval": 4},
}
MEASURED = {"name": "mag_cache", "most": 3, "retain": 0.2}
FEW_BITS = {"name": "quantised", "scales": []}
SCALED = {"name": "epsilon_scaling", "scale": 1.005, "slope": 0.0}
RULES: Mapping[str, Mapping[str, Any]] = {
    "euler": {"name": "euler"},
    "heun": {"name": "heun"},
    "pseudo_corrector": {"name": "pseudo_corrector"},
    "dpmpp_2s": {"name": "dpmpp_2s"},
    "dpmpp_2m": {"name": "dpmpp_2m"},
    "dpmpp_3m": {"name": "dpmpp_3m", "eta": 0.0, "curvature": 2},
    "unipc": {"name": "unipc"},
    "deis 2": {"name": "deis", "order": 2, "basis": "t"},
    "deis 3": {"name": "deis", "order": 3, "basis": "t"},
    "dpm_solver_v3, fitted": {"fit": V3},
    "dc_solver, fitted": {"fit": {"name": "dc_solver", "parts": 16}},
    "usf, fitted": {"fit": {"name": "usf", "parts": 16, "most": 3, "sweeps": 2}},
    "teleport 1, fitted": {"fit": {**JUMPED, "skipped": 1, "rank": 0, "mean": "data"}},
    "teleport 2, fitted": {"fit": {**JUMPED, "skipped": 2, "rank": 0, "mean": "data"}},
    "teleport 2, fitted by prompt": {"fit": {**JUMPED, "skipped": 2, "rank": 0, "mean": "network"}},
    "teleport 2, rest 0.1": {**JUMPED, "skipped": 2, "law": LEFT_OPEN},
    "pndm": {"name": "pndm", "order": 4, "warm_up": "improved_euler"},
    "gradient_estimation": {"name": "gradient_estimation", "gamma": 2.0, "mu": 0.0},
    "er_sde, no noise": {"name": "er_sde", "phi": "rho", "terms": "3"},
    "sa_solver 0": {**SA, "tau": 0.0},
    "sa_solver 0.4": {**SA, "tau": 0.4},
    "sa_solver 1": {**SA, "tau": 1.0},
    "er_sde": {"name": "er_sde", "phi": "er", "terms": "3"},
    "dpmpp_2m_sde": {"name": "dpmpp_2m_sde", "eta": 1.0},
    "ddim 1": {"name": "ddim", "noise_level": 1.0, "variance": "small"},
    "psld": {"name": "psld", "gamma": 0.01, "nu": 4.01, "kappa": 0.04},
    "cld": {"name": "psld", "gamma": 0.0, "nu": 4.0, "kappa": 0.04},
    "churn": {"name": "churn", "churn": 10.0, "lo": 0.05, "hi": 50.0, "inflation": 1.003},
    "restart": {"name": "restart", "solver": "heun", "intervals": INTERVALS, "inflation": 1.0},
    "renoise": {"name": "renoise"},
    "flow_sde": {"name": "flow_sde", "noise_level": 0.7},
    "euler, reused": {"name": "euler", "field": {**EVERY_SECOND, "order": 0}},
    "euler, extrapolated": {"name": "euler", "field": {**EVERY_SECOND, "order": 1}},
    "dpmpp_2m, scaled": {"name": "dpmpp_2m", "field": SCALED},
    "ddim 1, scaled": {"name": "ddim", "noise_level": 1.0, "variance": "small", "field": SCALED},
    "conjugate -1": {"name": "conjugate", "scale": -1.0},
    "conjugate 1": {"name": "conjugate", "scale": 1.0},
    "dpmpp_2m, token_merging": {"name": "dpmpp_2m", "field": MERGED},
    "dpmpp_2m, ras": {"name": "dpmpp_2m", "field": {**REGIONS, "droughts": "protected"}},
    "dpmpp_2m, pab": {"name": "dpmpp_2m", "field": BROADCAST},
    "dpmpp_2m, faster_cache": {"name": "dpmpp_2m", "field": FASTER},
    "dpmpp_2m, light_cache": {"name": "dpmpp_2m", "field": OUTER},
    "dpmpp_2m, mag_cache": {"name": "dpmpp_2m", "field": MEASURED},
    "dpmpp_2m, sada": {"name": "dpmpp_2m", "field": CURVED},
    "dpmpp_2m, 8 bits": {"name": "dpmpp_2m", "field": {**FEW_BITS, "weight_bits": 8, "activation_bits": 8}},
    "dpmpp_2m, 4 bits": {"name": "dpmpp_2m", "field": {**FEW_BITS, "weight_bits": 4, "activation_bits": 4}},
    "dpmpp_2m, dual_fast": {"name": "dpmpp_2m", "field": {"name": "dual_fast", "most": 0.1, "anchor": 1}},
}
"""What a row is called, and the rule with its knobs; maybe a field, which answers for the network's velocity. Or a fit,
which makes a rule for each model and each schedule, on samples and noise that no row is measured on."""
FITTED_CALLS = CALLS[:3]
"""That samplers are fitted to a network for: what a fit takes grows with the square of the steps."""
SCENES = 512
"""Samples of a teacher of scenes."""
KEPT = Path(".fewstep/samplers")
PAGE, FIGURES = Path("docs/samplers.md"), Path("docs/images")


def main() -> None:
    """Sample what is not there yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="side by side (one a core)")
    part = parser.add_mutually_exclusive_group()
    only = {"dest": "part", "action": "store_const", "default": ""}
    part.add_argument("--guided", const="guided", help="teachers with guidance, by step rules alone", **only)
    part.add_argument("--shapes", const="shapes", help="a teacher of scenes, by step rules alone", **only)
    args = parser.parse_args()
    ways, preset = PARTS[args.part]
    ask_for(["dataset", "encode", "verifier", "teacher"], preset)
    KEPT.mkdir(parents=True, exist_ok=True)
    every = list(runs(ways))
    waiting: dict[tuple[Way, str], list[Run]] = {}
    for run in every:
        if not Path(run.file).is_file():
            waiting.setdefault((run.way, run.model), []).append(run)
    tasks = [(*of, left, os.getcwd()) for of, left in waiting.items()]
    side_by_side(follow, tasks, args.workers, "models, each with its guidance")
    found: dict[Any, list[Found]] = {}
    for run in every:
        found.setdefault((*run.way, run.rule, run.schedule), []).append(json.loads(Path(run.file).read_text()))
    bench = Results(found)
    script = f"samplers.py --{args.part}" if args.part else "samplers.py"
    figure = FIGURES / f"{script.replace('.py --', '_').removesuffix('.py')}.png"
    put(ROOT / PAGE, script, page(bench, ways, (ROOT / PAGE).read_text(encoding="utf-8")))
    draw(bench, ways, ROOT / figure)
    print(f"{PAGE} and {figure} written")


class Run(NamedTuple):
    """One model, sampled by one rule on one schedule with each number of calls."""

    way: Way
    model: str
    """`mixture`, or the folder of a teacher under data/."""
    rule: str
    schedule: str
    file: str
    """For its numbers."""


def runs(ways: Sequence[Way]) -> Iterator[Run]:
    """All that the bench makes of some ways, made or not: the files are called after what decides them."""
    further = sorted(each.name for each in Path("data/teacher-replicates").glob("r*"))
    teachers = ["teacher", *(f"teacher-replicates/{name}" for name in further)]
    for way in ways:
        for model in ["mixture"] if way[0] == "mixture" else teachers:
            for rule, knobs in RULES.items():
                if way not in WAYS and knobs.keys() & {"fit", "field"}:
                    continue
                schedules = SCHEDULES if way in WAYS else SCHEDULES.keys() - {"shifted 3"}
                chosen = [nodes for nodes, of in NODES.items() if rule in of and way not in SHAPES]
                for schedule in [*sorted(schedules), *chosen]:
                    yield Run(way, model, rule, schedule, str(_file(way, model, rule, schedule)))


def _file(way: Way, model: str, rule: str, schedule: str) -> Path:
    """Where numbers are kept: called after all that decides them."""
    of = None if model == "mixture" else manifests(["dataset", "verifier", model, model.replace("teacher", "encode")])
    sizes = [CALLS, FINE_STEPS, GRID_STEPS, MIXTURE_SAMPLES, *([SCENES] if way in SHAPES else [])]
    decides = [of, way[1], RULES[rule], SCHEDULES.get(schedule, schedule), *sizes]
    return (KEPT / sha256_of(decides)[:16]).with_suffix(".json").resolve()


def follow(way: Way, model: str, runs: Sequence[Run], project: str) -> None:
    """Make the runs of one model, and write the numbers of each to its file as soon as they are known."""
    os.chdir(project)
    torch.set_num_threads(1)
    seen = Mixture() if model == "mixture" else Teacher(model, way[1], SCENES if way in SHAPES else None)
    for run in runs:
        rule = RULES[run.rule]
        budgets = FITTED_CALLS if "fit" in rule and model != "mixture" else CALLS
        specs = {most: fitting(rule, run.schedule, most, seen) for most in budgets}
        write_json(Path(run.file), {str(most): seen.numbers(spec) for most, spec in specs.items() if spec})


def fitting(rule: Mapping[str, Any], schedule: str, most: int, model: Sampled) -> SamplerSpec | None:
    """The rule with as many steps as take at most `most` calls, or None where it takes more in a single one."""
    rule, field = {name: knob for name, knob in rule.items() if name != "field"}, rule.get("field")
    asks = field and FIELDS[field["name"]].fixed is False
    if asks and not model.opens:
        return None
    if "fit" in rule:  # its network calls are those of its steps
        steps = most_steps(model.fit(rule["fit"], {**SCHEDULES[schedule], "steps": most}), most)
        return model.fitted(model.fit(rule["fit"], {**SCHEDULES[schedule], "steps": steps}))
    if field and field["name"] == "mag_cache":
        return _measured(rule, field, {**SCHEDULES[schedule], "steps": 2 * most}, most, model)
    for steps in range(2 * most if field else most_steps(rule_of(rule), most), 0, -1):
        if schedule in NODES:
            chosen: Mapping[str, Any] = {"name": "explicit", "at": model.best_nodes(steps, schedule)}
        else:
            chosen = {**SCHEDULES[schedule], "steps": steps}
        if chosen["name"] == "log_uniform" and steps < 2:  # it needs both its ends
            return None
        spec = check(Sampler, {"rule": rule, "schedule": chosen, "guidance": 1.0, "field": field}, "sampler").spec
        if (model.passes(spec) if asks else calls(spec)) <= most:
            return spec
    return None


def _measured(rule: Any, field: Mapping[str, Any], schedule: Any, most: int, model: Sampled) -> SamplerSpec:
    """MagCache by ratios measured on these very steps, with the least threshold that leaves at most so many calls."""

    def spec(**more: Any) -> SamplerSpec:
        return check(Sampler, {"rule": rule, "schedule": schedule, "guidance": 1.0, **more}, "sampler").spec

    knobs = {**field, "ratios": model.ratios(spec())}
    for rise in range(200):
        knobs["threshold"] = 1e-4 * 1.1**rise
        if sum(check(MagCache, knobs, "field").called(schedule["steps"])) <= most:
            break
    return spec(field=knobs)


if __name__ == "__main__":
    main()
