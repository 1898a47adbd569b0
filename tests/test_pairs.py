"""From the teacher's trajectories to a student, in this process: what is stored how changes nothing but the bytes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flows.project.nodes import STAGES, Node
from stages.core.coarse import coarse
from stages.core.config import check
from stages.core.rng import normal_at
from stages.couplings.minibatch_ot import assignment, squared_distances
from stages.io import artefacts, run
from stages.io.dataset import Dataset
from stages.io.job import Job
from stages.io.pairs import Pairs
from stages.io.steps import fitted_at
from stages.metrics.pairs import moments, pair_statistics
from stages.models import load
from stages.models.store import sampler
from stages.samplers.restored import restored
from stages.samplers.spec import Sampler
from stages.samplers.student import Noise
from tests.composed import params_of

ROOT = Path(__file__).parents[1]
SHARDS = 4


SEARCHES = {
    cost: f"reflow.search={{cost: {cost}, num_samples: 16, num_steps: 8, guidance: 1.0}}"
    for cost in ("jump", "align_your_steps")
}


def compose(*words):
    words = ["experiment=smoke", "trajectories.shard_size=64", "+distiller@distill.arms.kd=kd", *words]
    return params_of(*words)


def make(node, composed, root):
    """Run a stage whole, and return its artefact's folder."""
    inputs = STAGES[node.stage].inputs(composed, node.arm)
    job = Job(
        stage=node.stage,
        arm=node.arm,
        seed=4,
        section=node.section(composed),
        inputs={name: str(root / folder) for name, folder in inputs.items()},
    )
    run.run(job, root / node.folder, root / "work", lambda *_: None)
    return root / node.folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("base")
    for stage in ("dataset", "teacher", "encode", "trajectories"):
        make(Node(stage), compose(), root)
    return root


def beside(base, root, *names):
    """A project that shares artefacts with `base`."""
    (root / "data").mkdir(parents=True)
    for name in names:
        (root / "data" / name).symlink_to(base / "data" / name)
    return root


def read(folder):
    found = Pairs(folder)
    parts = [found.read(number) for number in range(SHARDS)]
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return whole, [found.prompts[i] for i in whole["prompt_index"].tolist()]


@pytest.mark.slow
def test_reflow_keeps_the_teachers_pairs_and_tells_their_statistics(base, tmp_path):
    root = beside(base, tmp_path, "dataset", "teacher", "encode", "trajectories")
    out = make(Node("reflow"), compose(), root)
    pairs, prompts = read(out)
    recorded, asked = read(root / "data/trajectories")
    assert all(torch.equal(pairs[name], recorded[name]) for name in ("noise", "x0"))
    assert prompts == asked
    told = artefacts.read_manifest(out)["metrics"]
    expected = pair_statistics([moments(pairs["noise"], pairs["x0"])])
    assert {name: told[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert told["straightness_teacher"] > 0
    assert not (out / "found.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("coupling", ["independent", "minibatch_ot"])
def test_other_couplings_pair_the_noise_with_real_data(base, tmp_path, coupling):
    root = beside(base, tmp_path, "dataset", "teacher", "encode", "trajectories")
    words = [f"reflow.coupling={coupling}", "reflow.ot_batch=32"]
    pairs, prompts = read(make(Node("reflow"), compose(*words), root))
    assert torch.equal(pairs["noise"], normal_at(4, "trajectories", 0, 256, (1, 8, 8)))
    dataset = Dataset.load(root / "data/dataset")
    captions, x0 = dataset.texts(dataset.train_prompts), 2 * dataset.train_images - 1
    known = {(image.numpy().tobytes(), caption) for image, caption in zip(x0, captions, strict=True)}
    rows = list(zip(pairs["x0"], prompts, strict=True))
    assert all((image.numpy().tobytes(), caption) in known for image, caption in rows), "an image and its own caption"
    assert len({image.numpy().tobytes() for image, _ in rows}) > 200, "shards draw each their own"
    cost = squared_distances(pairs["noise"], pairs["x0"])
    for rows_of_batch in torch.arange(256).split(32):
        batch = cost[rows_of_batch][:, rows_of_batch]
        order = assignment(pairs["noise"][rows_of_batch], pairs["x0"][rows_of_batch])
        least = batch.gather(1, order[:, None]).sum().item()  # not the order, which equal images leave open
        found = batch.diagonal().sum().item()
        assert found == pytest.approx(least, rel=1e-9) if coupling == "minibatch_ot" else found > 1.01 * least


@pytest.mark.slow
def test_an_ot_batch_larger_than_a_shard_is_refused(base, tmp_path):
    root = beside(base, tmp_path, "dataset", "teacher", "encode", "trajectories")
    with pytest.raises(ValueError, match=r"reflow\.ot_batch=65: a shard has 64 trajectories.*trajectories\.shard_size"):
        make(Node("reflow"), compose("reflow.coupling=minibatch_ot", "reflow.ot_batch=65"), root)


@pytest.mark.slow
def test_a_student_is_the_same_whether_noise_was_stored_or_made_again(base, tmp_path):
    """Bitwise, with a buffer of two shards, so that the student's data are read again and again."""
    models, sizes = [], []
    for name, words in {"whole": [], "made again": ["trajectories.store_noise=false"]}.items():
        root = beside(base, tmp_path / name, "dataset", "teacher", "encode")
        composed = compose("distill.arms.kd.shuffle_buffer=128", "distill.arms.kd.budget.iterations=6", *words)
        for node in (Node("trajectories"), Node("reflow"), Node("distill", "kd")):
            out = make(node, composed, root)
        files = artefacts.read_manifest(out)["files"]
        models.append({entry["path"]: entry["sha256"] for entry in files})
        sizes.append(sum(file.stat().st_size for file in (root / "data/reflow").glob("*.safetensors")))
    assert models[0] == models[1]
    assert sizes[0] - sizes[1] == pytest.approx(4 * 256 * 64, abs=100 * SHARDS)


@pytest.mark.slow
def test_half_precision_is_what_it_says(base, tmp_path):
    root = beside(base, tmp_path, "dataset", "teacher", "encode")
    composed = compose("trajectories.dtype=float16", "trajectories.keep=[]")
    half, _ = read(make(Node("trajectories"), composed, root))
    whole, _ = read(base / "data/trajectories")
    assert torch.equal(half["x0"], whole["x0"].half().float())
    pairs, _ = read(make(Node("reflow"), composed, root))
    assert torch.equal(pairs["x0"], half["x0"])


@pytest.mark.slow
def test_an_unknown_dtype_is_refused(base, tmp_path):
    root = beside(base, tmp_path, "dataset", "teacher", "encode")
    with pytest.raises(ValueError, match=r"trajectories\.dtype.*int8.*float16"):
        make(Node("trajectories"), compose("trajectories.dtype=int8"), root)


@pytest.mark.slow
def test_pairs_that_an_arm_draws_for_itself_are_part_of_its_cost(base, tmp_path):
    """24 pairs in 3 guided steps, each of two branches; then 2 iterations of 16."""
    root = beside(base, tmp_path, "dataset", "teacher", "encode")
    how = "{rule: {name: euler}, schedule: {name: uniform, steps: 3}, guidance: 2.0}"
    draw = f"distill.arms.kd.draw={{num_pairs: 24, sampler: {how}}}"
    words = ["distill.arms.kd.data=data/dataset", "distill.arms.kd.batch_size=16"]
    out = make(Node("distill", "kd"), compose(draw, *words, "distill.arms.kd.budget.iterations=2"), root)
    cost = json.loads((out / "cost.json").read_text())
    assert cost["networks"]["teacher"]["forward"] == 24 * 3 * 2
    assert cost["networks"]["student"] == {"forward": 32, "forward_part": 0, "backward": 32, "backward_part": 0}
    assert (cost["network_evaluations"], cost["backward_passes"]) == (24 * 3 * 2 + 32, 32)


@pytest.mark.slow
def test_data_without_pairs_is_refused_with_what_to_do(base, tmp_path):
    root = beside(base, tmp_path, "dataset", "teacher", "encode")
    with pytest.raises(ValueError, match=r"holds no pairs; name data/reflow, or say in distill\.arms\.kd\.draw"):
        make(Node("distill", "kd"), compose("distill.arms.kd.data=data/dataset"), root)


def boss(*words):
    """A student of two steps, on trajectories of eight."""
    arm = "distill.arms.boss"
    small = [f"{arm}.draw.num_pairs=24", f"{arm}.draw.sampler.schedule.steps=8", f"{arm}.batch_size=16"]
    return compose("+distiller@distill.arms.boss=boss", f"{arm}.nfe=2", *small, f"{arm}.budget.iterations=2", *words)


@pytest.mark.slow
@pytest.mark.parametrize("cost", SEARCHES)
def test_a_student_steps_on_the_nodes_that_the_search_found(base, tmp_path, cost):
    """Which are those of least cost; and it costs the trajectories, of 24 samples in 8 steps, and two batches."""
    root = beside(base, tmp_path, "dataset", "teacher", "encode", "trajectories")
    composed = boss(SEARCHES[cost])
    found = json.loads((make(Node("reflow"), composed, root) / "steps.json").read_text())
    assert found["times"] == [1 - i / 8 for i in range(9)]
    assert [len(nodes) for nodes in found["nodes"]] == list(range(2, 10))
    out = make(Node("distill", "boss"), composed, root)
    assert list(sampler(out / "model").times) == [found["times"][i] for i in found["nodes"][1]]
    cost = json.loads((out / "cost.json").read_text())
    assert (cost["network_evaluations"], cost["backward_passes"]) == (24 * 8 + 32, 32)


@pytest.mark.slow
def test_samplers_are_fitted_to_the_teacher_and_whole(base, tmp_path):
    root = beside(base, tmp_path, "dataset", "teacher", "encode", "trajectories")
    v3, dc = "reflow.samplers.v3", "reflow.samplers.dc"
    words = [f"+fit@{v3}=dpm_solver_v3", f"{v3}.num_samples=16", f"{v3}.num_levels=6", f"{v3}.guidance=2.0"]
    composed = compose(*words, f"+fit@{dc}=dc_solver", f"{dc}.num_samples=8", f"{dc}.parts=2")
    out = make(Node("reflow"), composed, root)
    found = {name: json.loads(fitted_at(out, name).read_text()) for name in ("v3", "dc")}
    for name, stated in found.items():
        assert check(Sampler, stated, name).spec.num_steps == 8
    assert found["v3"]["guidance"] == 2.0
    table = found["v3"]["rule"]["statistics"]
    assert [len(table[name]) for name in ("lam", "l", "s", "b")] == [6] * 4
    assert table["l"][0] > 0.9, "where there is noise alone, the state is the noise"
    assert table["l"][-1] < table["l"][0]
    assert set(found["dc"]["rule"]["ratios"][:2]) == {1.0} != set(found["dc"]["rule"]["ratios"])


@pytest.mark.slow
def test_pictures_that_were_not_seen_are_restored_better_from_the_noise_that_was_chosen(base, tmp_path):
    """Of a teacher that is told them, after a short training: than from each of 16 other noises on average."""
    root, place = beside(base, tmp_path, "dataset"), "reflow.samplers.one"
    words = ["teacher=restoration", "teacher.batch_size=64", "teacher.budget.iterations=150"]
    fit = [f"+fit@{place}=boundary_condition", f"{place}.num_samples=64", f"{place}.candidates=48"]
    composed = compose(*words, *fit)
    for node in (Node("teacher"), Node("encode"), Node("trajectories")):
        make(node, composed, root)
    found = json.loads(fitted_at(make(Node("reflow"), composed, root), "one").read_text())
    data = Dataset.load(root / "data/dataset")
    model = load(root / "data/teacher/model", [prompt.text for prompt in data.prompts])
    clean, cond = model.space.encode(data.test_images), data.rows(data.test_prompts)

    def distance(noise):
        stated = {**found, "rule": {**found["rule"], "noise": noise}}
        spec = check(Sampler, stated, "sampler").spec
        made = restored(replace(model, spec=spec), cond, coarse(clean, 2), Noise(0, "unused"))
        return (made - clean).square().mean().item()

    others = [distance(each.flatten().tolist()) for each in normal_at(0, "others", 0, 16, tuple(clean.shape[1:]))]
    assert distance(found["rule"]["noise"]) < sum(others) / len(others)


@pytest.mark.slow
def test_even_nodes_need_no_search_and_lie_on_the_trajectories_grid(base, tmp_path):
    root = beside(base, tmp_path, "dataset", "teacher", "encode", "trajectories")
    make(Node("reflow"), compose(), root)
    even = "distill.arms.boss.nodes=even"
    out = make(Node("distill", "boss"), boss(even), root)
    assert sampler(out / "model").times == (1.0, 0.5, 0.0)
    with pytest.raises(ValueError, match=r"draw\.sampler: its 8 steps are no multiple of the student's 3"):
        make(Node("distill", "boss"), boss(even, "distill.arms.boss.nfe=3"), root)
    with pytest.raises(ValueError, match=r"data=.*reflow: no steps were searched for; .* in reflow\.search"):
        make(Node("distill", "boss"), boss(), root)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ambient", "pfgm", "restoration"])
def test_a_teacher_of_noisy_images_or_other_noise_or_that_is_told_more_is_another_one(base, tmp_path, kind):
    root = beside(base, tmp_path, "dataset")
    out = make(Node("teacher"), compose(f"teacher={kind}"), root)
    own, clean = (json.loads((each / "metrics.json").read_text()) for each in (out, base / "data" / "teacher"))
    assert own.keys() == clean.keys()
    assert own != clean
    assert sampler(out / "model").num_steps == 32


@pytest.mark.slow
def test_a_fresh_student_has_a_size_of_its_own(base, tmp_path):
    root = beside(base, tmp_path, "dataset", "teacher", "encode", "trajectories")
    arm, small = "distill.arms.kd", "{kind: transformer, width: 16, num_layers: 1, num_heads: 2, patch_size: 2}"
    composed = compose(f"{arm}.fresh=true", f"{arm}.network={small}", f"{arm}.budget.iterations=2")
    make(Node("reflow"), composed, root)
    out = make(Node("distill", "kd"), composed, root)
    teacher = json.loads((root / "data/teacher/cost.json").read_text())
    assert json.loads((out / "cost.json").read_text())["parameters"] < teacher["parameters"] / 2
