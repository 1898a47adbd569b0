"""Prompts alone, through every stage: no image is seen, and what rewards say of samples stands in a score's place."""

import json
import re
from pathlib import Path

import pytest

from flows.pipeline import validation
from stages.io import params
from stages.io.dataset import Dataset
from stages.io.sources import digest
from tests.composed import params_of
from tests.models.families import tiny
from tests.plain import run_all
from tests.tiny_pretrained import save_clip

pytestmark = pytest.mark.slow

PARAMS = Path(__file__).parents[1] / "params"
SHAPE = (3, 16, 16)
LINES = [
    *({"prompt": f"a {colour} {thing}", "tag": "colors"} for colour in ("red", "blue") for thing in ("cat", "dog")),
    {"prompt": "two cats", "tag": "counting", "include": [{"class": "cat", "count": 2}], "negative_prompt": "blur"},
    {"prompt": 'a sign that says "HI"', "tag": "text"},
]


def composed(path: Path, clip: Path, *more: str) -> dict:
    """Students and RL arms of a checkpoint, judged by rewards alone."""
    overrides = [
        "~experiment", "dataset=prompts", f"dataset.path={path}", "verifier=none",
        "dataset.height=16", "dataset.width=16", "dataset.heldout.fraction=0.3",
        "teacher=diffusers", f"teacher.source={clip.parent / 'sd3'}", "teacher.height=16", "teacher.width=16",
        "teacher.precision=float32", "teacher.nfe=2", "teacher.text_length=7",
        "trajectories.num_trajectories=8", "trajectories.shard_size=8", "trajectories.keep=[]",
        "trajectories.sampler={rule: {name: euler}, schedule: {name: uniform, steps: 2}, guidance: 2.0}",
        "reflow.straightness={num_samples: 2, num_steps: 2}", "reflow.ot_batch=4",
        "+distiller@distill.arms.kd=kd", "distill.arms.kd.batch_size=2",
        "distill.arms.kd.budget={iterations: 1, warmup: 0}",
        "+distiller@distill.arms.tdm1=tdm", "distill.arms.tdm1.nfe=1", "distill.arms.tdm1.batch_size=2",
        "distill.arms.tdm1.budget={iterations: 1, warmup: 0}",
        *(f"+policy@rl.arms.{arm}=dgpo" for arm in ("dgpo", "liked")),
        *(f"rl.arms.{arm}.{word}" for arm in ("dgpo", "liked") for word in (
            "prompts_per_iteration=2", "group_size=2", "num_draws=1", "budget={iterations: 1, warmup: 0}")),
        "rl.arms.dgpo.rollout_steps=2", "rl.arms.liked.rollout_steps=1", "rl.arms.liked.init=data/distill/tdm1",
        "+reward@rl.arms.dgpo.rewards.small=jpeg",
        "+reward@rl.arms.liked.rewards.clip=clip_score", f"rl.arms.liked.rewards.clip.source={clip}",
        "+reward@evaluate.rewards.clip=clip_score", f"evaluate.rewards.clip.source={clip}",
        "+metric@evaluate.metrics.kernel=kernel", "evaluate.num_samples=4", "evaluate.teacher_nfe=[1,2]",
        "evaluate.guidance_nfe=2", "evaluate.guidance_scales=[1.0,2.0]", "evaluate.rl_nfe=3",
        "evaluate.rl_steps=[rollout]", "evaluate.straightness_samples=2", "evaluate.straightness_steps=2",
    ]  # fmt: skip
    return params_of(*overrides, *more)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("raw") / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, LINES)))
    return file


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("weights")
    tiny.saved("sd3", root / "sd3")
    return save_clip(root / "clip")


@pytest.fixture(scope="module")
def made(prompts, clip, tmp_path_factory) -> Path:
    """Every stage's artefact."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        run_all(composed(prompts, clip), root)
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
        (["+evaluate.distill_nfe.tdm9=[2]"], r"evaluate\.distill_nfe: no arm is called 'tdm9'"),
    ],
)  # fmt: skip
def test_what_prompts_alone_cannot_give_is_refused_before_any_work(prompts, clip, stated, message):
    override = [each for each in stated if not each.startswith("verifier")]
    content = composed(prompts, clip, *override)
    if "verifier=prompts" in stated:
        content["verifier"] = params.parse((PARAMS / "verifier/prompts.yaml").read_text(), "verifier")
    told = validation.faults(content)
    assert any(re.search(message, line) for line in told), told


def test_prompts_alone_teach_nothing(prompts):
    content = params.parse(
        params.compose(PARAMS, ["dataset=prompts", f"dataset.path={prompts}", "verifier=none"]), "params"
    )
    assert any(
        line.startswith("teacher.kind=flow_matching: it learns from images") for line in validation.faults(content)
    )
