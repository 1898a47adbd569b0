"""The committed params.yaml is what params/ composes into, and DVC's own Hydra writes the same bytes."""

import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import yaml
from dvc.utils.hydra import compose_and_dump

from stages.io import params, replicates

ROOT = Path(__file__).parents[1]


def test_the_committed_parameters_are_the_composed_ones():
    assert (ROOT / "params.yaml").read_text() == params.compose(ROOT / "params"), "run `fewstep compose` and commit"


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["experiment=gmm"],
        ["distill.arms.tdm1.nfe=2", "seed=3"],
        ["distill.arms.rectified.replicates=2", "distill.arms.instaflow.replicates=2", "rl.arms.dgpo.replicates=3"],
    ],
)
def test_dvc_composes_the_same_bytes(tmp_path, overrides):
    file = tmp_path / "params.yaml"
    compose_and_dump(str(file), str(ROOT / "params"), None, "config", str(ROOT), overrides)
    assert file.read_text() == params.compose(ROOT / "params", overrides)


def test_dvc_finds_what_makes_trainings_from_anywhere(tmp_path):
    """In a process that has imported nothing of ours, and in another folder: as `dvc exp run` composes."""
    call = "import sys; from dvc.utils.hydra import compose_and_dump; a = sys.argv[1:]; "
    call += "compose_and_dump(*a[:2], None, *a[2:4], a[4:])"
    words = ["distill.arms.tdm1.replicates=3", "experiment=smoke"]
    command = [sys.executable, "-c", call, "made.yaml", str(ROOT / "params"), "config", str(ROOT), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "made.yaml").read_text() == params.compose(ROOT / "params", words)


def test_trainings_are_what_the_arms_say():
    words = ["distill.arms.tdm1.replicates=3", "seed=5"]
    made = yaml.safe_load(params.compose(ROOT / "params", words))
    assert made["trainings"] == replicates.trainings(made)
    assert list(made["trainings"]["distill"]) == ["rectified", "instaflow", "tdm1", "tdm1-r2", "tdm1-r3"]
    assert made["trainings"]["distill"]["tdm1"]["seed"] == 5


@pytest.mark.parametrize("override", ["trainings.distill.tdm1.seed=3", "trainings.rl={}", "trainings.x=1"])
def test_trainings_are_no_ones_to_set(override):
    with pytest.raises(ValueError, match=r"trainings is made of the other sections; set teacher"):
        params.compose(ROOT / "params", [override])


@pytest.mark.parametrize("override", ["seed=${nope}", "distill.arms.tdm1.nfe=${nope}"])
def test_a_reference_that_leads_nowhere_is_told_where_it_stands(override):
    with pytest.raises(ValueError, match=rf"^{override.partition('=')[0]}: Interpolation key 'nope' not found") as told:
        params.compose(ROOT / "params", [override])
    assert len(str(told.value).splitlines()) == 1


SMALL = {
    "config": """
        defaults: [network: small, teacher: own, compute: local, _self_, experiment: digits]
        seed: 0
        rl: {arms: {dgpo: {beta: 1}}}
    """,
    "network/small": "{width: 64, num_layers: 3}",
    "teacher/own": "{kind: own, network: '${network}', budget: {iterations: 9}, nfe: [1, 2]}",
    "teacher/exact": "{kind: exact}",
    "compute/local": "{cpus: 1}",
    "compute/address": "{cpus: 2}",
    "distiller/kd": "{lr: 1.0}",
    "distiller/tdm": "{lr: 2.0}",
    "experiment/digits": """
        # @package _global_
        defaults: [/distiller@distill.arms.tdm1: tdm]
    """,
    "experiment/smoke": """
        # @package _global_
        defaults: [digits]
    """,
}


@pytest.fixture
def small(tmp_path):
    """A folder of parameters that is composed in no time."""
    for file, text in SMALL.items():
        (tmp_path / "params" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "params" / f"{file}.yaml").write_text(dedent(text).lstrip())
    return tmp_path / "params"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        # keys
        ("teacher.lr=1", r"teacher has no 'lr'; valid: kind, network, budget, nfe; a new key needs a plus, \+teacher"),
        ("teacher.width=1", r"teacher has no 'width'; did you mean teacher\.network\.width\?"),
        ("teacher.budget.iteratoins=1", r"teacher\.budget has no .*; did you mean teacher\.budget\.iterations\?"),
        ("distill.arms.tdm9.nfe=2", r"distill\.arms has no 'tdm9'; did you mean distill\.arms\.tdm1\?"),
        ("experimant=digits", r"params\.yaml has no 'experimant'; valid: network, teacher"),
        ("seed.x=3", r"seed is no mapping, it holds 0"),
        ("~rl.arms.dgpoo", r"rl\.arms has no 'dgpoo'; did you mean rl\.arms\.dgpo\? valid: dgpo$"),
        ("+seed=1", r"exists already; leave the \+ out"),
        ("teacher.budget={iterations: 3, lr: 1}", r"budget has no lr; valid: iterations; .*, \+\+teacher\.budget="),
        ("rl={arms: {dgpo: {gamma: 1}}}", r"rl has no arms\.dgpo\.gamma; valid: beta; new keys need two pluses"),
        ("rl.arms=[1]", r"rl\.arms is a mapping, a list cannot take its place"),
        ("teacher.nfe.x=1", r"teacher\.nfe is no mapping, it holds \[1, 2\]"),
        # presets
        ("experiment=digit", r"params/experiment/ has no preset 'digit'; did you mean 'digits'\? valid: digits, smoke"),
        ("+distiller@distill.arms.x=kdd", r"params/distiller/ has no preset 'kdd'; did you mean 'kd'\?"),
        ("compute=null", r"compute is made by a preset; name one: address, local"),
        ("+experiment=[1,2]", r"experiment=\[1,2\]: "),
        ("+teacher=exact", r"exists already; leave the \+ out"),
        ("distiller@distill.arms.x=kd", r"use \+distiller@distill\.arms\.x=kd"),
        # the form
        ("teacher", r"no override as Hydra reads them: key=value"),
        ("=3", r"no override as Hydra reads them"),
        ("+=${seed}", r"\+=\$\{seed\}: "),
        ("seed=[1", r"no override as Hydra reads them"),
        ("+distill.arms.x;touch PWNED;={}", r"no override as Hydra reads them"),
        ("seed=1,2", r"one value is wanted; a list is key=\[a,b\]"),
        # references
        ("seed=${nope}", r"^seed: Interpolation key 'nope' not found; correct the reference"),
        ("seed=${oc.env:NOPE}", r"^seed: .*Environment variable 'NOPE' not found"),
        ("seed=${seed}", r"^seed: Recursive interpolation detected"),
    ],
)  # fmt: skip
def test_an_override_that_hydra_refuses_is_named_with_what_would_do(small, override, message):
    with pytest.raises(ValueError, match=message) as refusal:
        params.compose(small, [override])
    assert len(str(refusal.value).splitlines()) == 1
    assert "struct" not in str(refusal.value)


def test_every_override_at_fault_is_told(small):
    with pytest.raises(ValueError, match="teachr") as refusal:
        params.compose(small, ["teachr.budget=3", "seed=1", "experiment=digit", "seed=[1"])
    starts = [line.partition(":")[0] for line in str(refusal.value).splitlines()]
    assert starts == ["teachr.budget=3", "experiment=digit", "seed=[1"]


def test_what_is_said_of_a_key_below_a_reference_composes(small):
    """params.yaml shows the key; Hydra sees ${network} there."""
    with pytest.raises(ValueError, match=r"teacher\.network is what network is: set network\.width for all") as refusal:
        params.compose(small, ["teacher.network.width=32"])
    (alone,) = re.findall(r"'(teacher\.network=.*)' alone", str(refusal.value))
    made = yaml.safe_load(params.compose(small, [alone]))
    assert made["teacher"]["network"] == {"width": 32, "num_layers": 3}
    assert made["network"]["width"] == 64


@pytest.mark.parametrize("override", ["seed=[" + 20000 * "1", 20000 * "a" + "=1", "teacher." + 20000 * "a" + "=1"])
def test_an_input_is_not_echoed_whole(small, override):
    with pytest.raises(ValueError, match="characters") as refusal:
        params.compose(small, [override])
    assert len(str(refusal.value)) < 800


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("network/small", "a: [1\n", r"network/small\.yaml.*expected ',' or '\]'"),
        ("teacher/own", "kind: a\nkind: b\n", r"own\.yaml.*duplicate key kind"),
        ("distiller/tdm", "defaults: [comon]\n", r"In 'distiller/tdm': Could not load 'distiller/comon'"),
        ("compute/local", "root: ${nope}\n", r"^compute\.root: Interpolation key 'nope' not found"),
    ],
)
def test_a_preset_at_fault_is_named(small, file, text, message):
    (small / f"{file}.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        params.compose(small)


@pytest.mark.parametrize(("text", "message"), [("a: [1", "not YAML"), ("- 1", "holds no parameters"), ("", "holds no")])
def test_a_file_that_is_none_is_named(tmp_path, text, message):
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"params\.yaml: .*{message}"):
        params.read(tmp_path / "params.yaml")
    with pytest.raises(ValueError, match="missing; write it with"):
        params.read(tmp_path / "other.yaml")
