"""Words as a data set, and what judges them: splits, agreement, and OCR on pictures of each size."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from stages import rewards
from stages.core.config import check
from stages.core.frechet import frechet_distance
from stages.io import run
from stages.io.dataset import Dataset
from stages.io.expected import Expected
from stages.io.job import Job
from stages.io.words import Words, dataset, texts
from stages.models.verifier import load_verifier
from tests.composed import params_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMALL = ["dataset.num_train=1500", "dataset.num_test=200", "verifier.iterations=400"]


def composed(*words):
    return params_of("experiment=words", *words)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small data set of words and its verifier."""
    content = composed(*SMALL)
    root, inputs = tmp_path_factory.mktemp("words"), {}
    for stage in ("dataset", "verifier"):
        job = Job(stage=stage, arm=None, seed=0, section=content[stage], inputs=dict(inputs))
        metrics = run.run(job, root / stage, root / "work", lambda *_: None)
        inputs[stage] = str(root / stage)
    return Dataset.load(root / "dataset"), load_verifier(root / "verifier"), metrics


def test_training_shows_nothing_that_was_held_out(made):
    data = made[0]
    assert {data.splits[place] for place in data.train_prompts.tolist()} == {"seen"}
    assert {data.splits[place] for place in data.test_prompts.tolist()} == {"seen", "heldout"}
    assert (len(data.prompts), len(data.places("heldout"))) == (90, 15)
    cfg = check(Words, composed()["dataset"], "dataset")
    assert tuple(map(len, texts(cfg, 0))) == (75, 15)
    assert data.sample_shape == (3, 8, 16)


def test_the_verifier_agrees_with_what_was_written_and_with_nothing_else(made):
    data, judge, metrics = made
    assert metrics["agreement_all"] > 0.8
    assert {"agreement_letter_1", "agreement_letter_2", "agreement_letter_3"} <= metrics.keys()
    prompts = [data.prompts[place] for place in data.test_prompts.tolist()]
    right, wrong = (judge.judge(data.test_images, asked) for asked in (prompts, prompts[1:] + prompts[:1]))
    same = torch.tensor([[one.facts[name] == two.facts[name] for name in judge.attributes]
                         for one, two in zip(prompts, prompts[1:] + prompts[:1], strict=True)])  # fmt: skip
    assert right.float().mean() > 0.9
    assert (wrong == same).float().mean() > 0.9, "letter by letter"
    likely = judge.log_likelihood(data.test_images, prompts, 1.0)
    assert likely.shape == (200, 3)
    assert (likely.exp() > 0.5).float().mean() > 0.8


def test_features_tell_words_from_noise(made):
    data, judge, _ = made
    real, other = judge.features(data.test_images[:100]), judge.features(data.test_images[100:])
    noise = judge.features(torch.rand(100, 3, 8, 16, generator=torch.Generator().manual_seed(0)))
    assert frechet_distance(real, noise) > 3 * frechet_distance(real, other)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("letters", ["aa"], "in 'aa' one stands twice"),
        ("letters", ["A"], "letters"),
        ("letters", [], "letters"),
        ("letters", ["abcdefghijklmnopqrstuvwxyz"] * 4, "they make 456976 words, and 100000 are the most"),
        ("num_heldout_words", -1, "num_heldout_words"),
    ],
)
def test_words_that_cannot_be_are_refused(field, value, said):
    with pytest.raises(ValueError, match=said):
        check(Words, composed()["dataset"] | {field: value}, "dataset")


def test_another_verifier_is_refused_before_any_work():
    from stages import dataset as stage
    from stages import verifier

    content = composed("verifier=prompts")
    job = Job(stage="dataset", arm=None, seed=0, section=content["dataset"], inputs={})
    known = stage.expect(check(Words, content["dataset"], "dataset"), job, {})
    assert isinstance(known, Expected)
    assert known.dataset is not None
    assert (known.dataset.num_seen, known.dataset.attributes) == (75, ("letter_1", "letter_2", "letter_3"))
    cfg = check(verifier.Trained, content["verifier"], "verifier")
    with pytest.raises(ValueError, match="prompts does not judge a dataset of words; letters does: verifier=letters"):
        verifier.expect(cfg, job, {"dataset": known})


@pytest.mark.skipif(not find_spec("rapidocr"), reason="the extra ocr")
@pytest.mark.parametrize(("width", "height", "least", "most"), [(12, 6, 0.4, 0.9), (16, 8, 0.97, 1.0)])
def test_the_preset_is_the_smallest_that_ocr_reads_nearly_always(width, height, least, most):
    """Exactly read, of 120 pictures of each size: what is smaller is not read as surely, and what is asked is."""
    words = [f"dataset.pictures.width={width}", f"dataset.pictures.height={height}"]
    cfg = check(Words, composed(*words, "dataset.num_train=1", "dataset.num_test=120")["dataset"], "dataset")
    data = dataset(cfg, 0)
    prompts = [data.prompts[place] for place in data.test_prompts.tolist()]
    terms = rewards.terms({"legible": {"kind": "ocr", "weight": 1.0, "reads": "line"}}, "rewards")
    reward = rewards.weighted(terms, rewards.Given(Path(), "cpu"))
    exact = (reward(data.test_images, prompts) == 1).float().mean().item()
    assert least <= exact <= most
    others = reward(data.test_images[:40], prompts[40:80])
    assert others.mean() < 0.5, "another word is not what was asked for"
