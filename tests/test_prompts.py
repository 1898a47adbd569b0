"""Prompts alone, through every stage: no image is seen, and what rewards say of samples stands in a score's place."""

import json
import re
from pathlib import Path

import pytest

from flows.pipeline import validation
from flows.project import graph, work
from stages.core.spec import even
from stages.io import artefacts, params, run
from stages.io.dataset import Dataset
from stages.io.sources import digest
from stages.models import Student, save
from stages.models.network import seeded_teacher
from stages.models.space import Pixels
from stages.models.text import Clip as ClipText
from stages.models.transformer import TransformerConfig
from tests.tiny_pretrained import save_clip

PARAMS = Path(__file__).parents[1] / "params"
SILENT = lambda _step, _metrics: None  # noqa: E731
SHAPE = (3, 8, 8)
LINES = [
    *({"prompt": f"a {colour} {thing}", "tag": "colors"} for colour in ("red", "blue") for thing in ("cat", "dog")),
    {"prompt": "two cats", "tag": "counting", "include": [{"class": "cat", "count": 2}], "negative_prompt": "blur"},
    {"prompt": 'a sign that says "HI"', "tag": "text"},
]


def composed(path: Path, clip: Path, *more: str) -> dict:
    """A distilled student and an RL arm of a teacher that was brought, judged by rewards."""
    overrides = [
        "experiment=smoke", "dataset=prompts", f"dataset.path={path}", "verifier=none", "~verifier.iterations",
        "dataset.height=8", "dataset.width=8", "heldout@dataset.heldout=fraction", "dataset.heldout.fraction=0.3",
        "~distill.arms.cd", "~distill.arms.dmd2", "~rl.arms.flow_grpo", "~rl.arms.dgpo.rewards.right",
        "distill.arms.tdm1.data=data/dataset",
        "+reward@rl.arms.dgpo.rewards.small=jpeg", "evaluate.rl_nfe=3", "evaluate.rl_steps=[rollout]",
        "+policy@rl.arms.liked=dgpo", "+reward@rl.arms.liked.rewards.clip=clip_score",
        f"rl.arms.liked.rewards.clip.source={clip}", "rl.arms.liked.init=data/distill/tdm1",
        "rl.arms.liked.prompts_per_iteration=2", "rl.arms.liked.group_size=2", "rl.arms.liked.rollout_steps=1",
        "rl.arms.liked.num_draws=1", "rl.arms.liked.budget={iterations: 1, warmup: 0}",
        "+reward@evaluate.rewards.clip=clip_score", f"evaluate.rewards.clip.source={clip}",
        "+metric@evaluate.metrics.kernel=kernel",
        "trajectories.num_trajectories=32", "trajectories.shard_size=32", "reflow.ot_batch=16",
        "distill.arms.instaflow.draw.num_pairs=32", "evaluate.num_samples=6", "distill.arms.tdm1.batch_size=4",
        "evaluate.teacher_nfe=[1,2]", "evaluate.guidance_nfe=2", "evaluate.guidance_scales=[1.0,2.0]",
    ]  # fmt: skip
    return params.parse(params.compose(PARAMS, [*overrides, *more]), "params")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("raw") / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, LINES)))
    return file


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return save_clip(tmp_path_factory.mktemp("weights") / "clip", size=8)


def bring_a_teacher(texts: list[str]) -> None:
    sizes = TransformerConfig(kind="transformer", width=16, num_layers=1, num_heads=2, patch_size=4)
    net = seeded_teacher(0, sizes, SHAPE, texts, ClipText(kind="clip", num_layers=1))
    folder = Path("data/teacher")
    save(folder / "model", Student(net, even(4), Pixels(SHAPE), net.text.frozen()))
    artefacts.write_json(folder / artefacts.MANIFEST, {"schema": 1, "files": artefacts.inventory(folder)})


@pytest.fixture(scope="module")
def made(prompts, clip, tmp_path_factory) -> Path:
    """Every stage's artefact but the teacher's, which was brought."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        content = composed(prompts, clip)
        for node in graph.nodes(content):
            if node.stage == "teacher":
                bring_a_teacher([prompt.text for prompt in Dataset.load(Path("data/dataset")).table])
                continue
            run.run(work.job(node, content), Path(node.folder), root / "work", SILENT)
    return root


def test_prompts_reach_the_reward_whole_and_no_image_is_there(made):
    data = Dataset.load(made / "data/dataset")
    assert data.sample_shape == SHAPE
    assert len(data.train_images) == len(data.test_images) == 0
    facts = {prompt.text: prompt for prompt in data.prompts}
    assert facts["two cats"].facts["include"] == [{"class": "cat", "count": 2}]
    assert facts["two cats"].negative == "blur"
    assert {len(data.places("seen")), len(data.places("heldout"))} == {4, 2}


def test_rewards_stand_in_a_scores_place_and_the_report_says_what_is_left_out(made):
    metrics = json.loads((made / "data/evaluate/metrics.json").read_text())
    assert "real" not in metrics
    assert set(metrics["rl"]) == {"dgpo", "dgpo.nfe2", "liked"}, "what starts from the teacher also as it rolls out"
    rewarded = {f"reward_{split}{name}" for split in ("", "heldout_") for name in ("clip", "dgpo", "liked")}
    for group in ("teacher", "distill", "rl"):
        for row in metrics[group].values():
            assert {name for name in row if name.startswith("reward_")} == rewarded, "every reward on every model"
            assert row["reward_liked"] == row["reward_clip"]
            assert "frechet_distance" not in row
            assert "score_seen" not in row
    sources = json.loads((made / "data/rl/liked/rewards.json").read_text())
    assert sources == {source: digest(source) for source in sources}
    assert len(sources) == 1
    page = (made / "data/evaluate/report.html").read_text()
    assert "the data set has prompts alone" in page
    assert "Left out, since it needs real images: kernel" in page
    assert "reward: clip, held out" in page
    assert (made / "data/evaluate/figures/samples.png").is_file()
    assert not (made / "data/evaluate/figures/score_distance.png").exists()


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (["verifier=prompts"], r"0 training images show .*; add images, .* or take verifier=none"),
        (["+distiller@distill.arms.other=cd"], r"distill\.arms\.other\.method=cd: it trains on images"),
        (["reflow.coupling=independent"], r"reflow\.coupling=independent: pairs noise with images"),
        (["+reward@rl.arms.dgpo.rewards.also=verifier", "+rl.arms.dgpo.rewards.also.attributes={all: 1.0}"],
         r"rl\.arms\.dgpo\.rewards\.also\.kind: the verifier judges nothing"),
        (["evaluate.rewards.clip.source=/nowhere"], r"evaluate\.rewards\.clip: /nowhere: no such folder or file"),
        (["evaluate.rewards.clip.source='hub:openai/clip'"], r"evaluate: rewards\.clip\.source: .*the revision pinned"),
        (["+reward@evaluate.rewards.dgpo=jpeg"], r"evaluate\.rewards: dgpo is also how an arm's reward is called"),
    ],
)  # fmt: skip
def test_what_prompts_alone_cannot_give_is_refused_before_any_work(prompts, clip, stated, message):
    override = [each for each in stated if not each.startswith("verifier")]
    content = composed(prompts, clip, *override)
    if "verifier=prompts" in stated:
        content["verifier"] = params.parse((PARAMS / "verifier/prompts.yaml").read_text(), "verifier")
    told = validation.faults(content)
    assert any(re.search(message, line) for line in told), told
    assert [line for line in told if line.startswith("teacher.kind=flow_matching")], "and what it is taught by"
