"""Rewards behind HTTP: the docs' example as a real process, servers that are busy, away or wrong, and what is kept."""

import math
from collections import Counter

import pytest
import torch

from flows.runtime import errors
from stages.core.errors import AwayError
from stages.core.prompts import Prompt
from stages.io import services
from stages.io.chat import share
from stages.rewards import Given, terms, weighted
from tests.ports import free_port
from tests.rewards.servers import answering, judging, preferring, scorer, service

PROMPTS = [Prompt("a day"), Prompt("a night"), Prompt("a day", {"n": 1})]
IMAGES = torch.stack([torch.full((3, 4, 4), value) for value in (0.2, 0.4, 0.8)])


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(services, "_FIRST_WAIT_S", 0.0)
    return tmp_path / "cache"


def http(url, version="1", batch_size=2, **more):
    stated = {"kind": "http", "weight": 1.0, "service": service(url, **more), "version": version}
    return weighted(terms({"it": stated | {"batch_size": batch_size}}, "r"), Given(None, "cpu"))


def judge(url, **more):
    stated = {"kind": "vlm_judge", "weight": 1.0, "service": service(url, **more), "model": "m"}
    stated |= {"question": "Is it {prompt}?", "top_logprobs": 5}
    return weighted(terms({"it": stated}, "r"), Given(None, "cpu"))


class Counting:
    """Scores by brightness, and counts what it was asked."""

    def __init__(self, faults=()):
        self.requests, self.images, self.faults = 0, 0, list(faults)

    def __call__(self, _path, content):
        self.requests += 1
        if content["images"] and self.faults:
            return self.faults.pop(0)
        self.images += len(content["images"])
        return 200, {"scores": [float(len(each["text"])) for each in content["prompts"]]}


def test_the_example_of_the_docs_scores(cache):
    with scorer() as url:
        found = http(url)(IMAGES, PROMPTS)
        assert torch.allclose(found, torch.tensor([0.2, 0.6, 0.8]), atol=2e-3)
        assert http(url)(IMAGES[:1], [Prompt("")]).isnan().all(), "null is no verdict"


def test_an_image_is_scored_once_for_a_prompt(cache):
    told = Counting()
    with answering(told) as url:
        first = http(url)(IMAGES, PROMPTS)
        assert told.images == 3
        assert torch.equal(http(url)(IMAGES.flip(0), PROMPTS[::-1]), first.flip(0))
        assert torch.equal(http(url)(IMAGES + 1e-4, PROMPTS), first), "of 256 levels it is the same image"
        assert told.images == 3
        http(url)(IMAGES, [Prompt("other"), *PROMPTS[1:]])
        http(url)(IMAGES, [*PROMPTS[:2], Prompt("a day", {"n": 2})])
        assert told.images == 5, "other words and other facts are another question"
        http(url, version="2")(IMAGES, PROMPTS)
        assert told.images == 8, "another scorer is asked for all"


def test_the_first_answer_stands(cache):
    seen = Counter()

    def moody(_path, content):
        seen["asked"] += len(content["images"])
        return 200, {"scores": [float(seen["asked"])] * len(content["images"])}

    with answering(moody) as url:
        assert torch.equal(http(url)(IMAGES[:2], PROMPTS[:2]), http(url)(IMAGES[:2], PROMPTS[:2]))


@pytest.mark.parametrize("fault", [(503, {}), (429, {}), (500, "broken"), (200, None)])
def test_a_busy_scorer_is_asked_again(cache, fault):
    told = Counting([fault, fault])
    with answering(told) as url:
        assert http(url, batch_size=3)(IMAGES, PROMPTS).tolist() == [5, 7, 5]
        assert told.requests == 4


def test_one_that_stays_away_is_a_failure_that_may_pass(cache):
    told = Counting([(503, {})] * 9)
    with answering(told) as url:
        reward = http(url, batch_size=3)
        with pytest.raises(AwayError, match=r"no answer in 3 attempts \(status 503.*start the service"):
            reward(IMAGES, PROMPTS)
    with pytest.raises(AwayError, match=r"no answer in 3 attempts .*refused"):
        http(f"http://127.0.0.1:{free_port()}")  # before anything is scored
    with pytest.raises(AwayError) as caught:
        judge(f"http://127.0.0.1:{free_port()}/v1")
    assert errors.passes(caught.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((404, "nothing here"), r"refuses what it is asked \(status 404, nothing here\)"),
        ((200, "<html>"), r"answers no JSON \(got b'<html>'\)"),
        ((200, {"scores": [1.0]}), r"a number or null for each of 3 images"),
        ((200, {"scores": [1.0, "a", True]}), r"a number or null for each of 3 images"),
        ((200, [1.0, 2.0, 3.0]), r"a number or null for each of 3 images"),
    ],
)
def test_a_wrong_answer_is_no_score(cache, answer, message):
    with answering(Counting([answer])) as url, pytest.raises(ValueError, match=message):
        http(url, batch_size=3)(IMAGES, PROMPTS)


def test_a_token_comes_from_the_environment_and_is_never_told(cache, monkeypatch):
    seen = []

    def noted(_path, content):
        seen.append(content["headers"].get("Authorization"))
        return 200, {"scores": [0.0] * len(content["images"])}

    with answering(noted) as url:
        with pytest.raises(ValueError, match=r"the environment has no SCORER_TOKEN"):
            http(url, token_variable="SCORER_TOKEN")
        monkeypatch.setenv("SCORER_TOKEN", "secret")
        http(url, token_variable="SCORER_TOKEN")(IMAGES, PROMPTS)
    assert set(seen) == {"Bearer secret"}
    assert not any(b"secret" in file.read_bytes() for file in cache.rglob("*") if file.is_file())


@pytest.mark.parametrize("url", ["ftp://host", "host:80", "http://user:word@host"])
def test_an_address_is_checked(url):
    with pytest.raises(ValueError, match=r"r\.it\.service\.url: .*should be http://host:port"):
        http(url)


def test_a_judge_says_how_sure_it_is_of_yes(cache):
    with answering(judging) as url:
        found = judge(f"{url}/v1")(IMAGES, PROMPTS)
    yes = [math.exp(-1 / len(f"Is it {prompt.text}?")) for prompt in PROMPTS]
    torch.testing.assert_close(found, torch.tensor([each / (each + math.exp(-2)) for each in yes]))


def test_a_judge_that_gives_no_logprobs_is_refused(cache):
    with answering(lambda path, content: (200, {"choices": [{"message": "yes"}]})) as url:
        with pytest.raises(ValueError, match=r"should answer with the log-probabilities of its first token"):
            judge(url)(IMAGES, PROMPTS)


def test_a_word_is_found_whatever_its_letters():
    half = math.log(0.25)
    assert share([("Yes", half), (" yes", half), ("NO.", half), ("maybe", 0.0)], "yes", "no") == pytest.approx(2 / 3)
    assert math.isnan(share([("maybe", -0.1)], "yes", "no"))


def preference(url, **more):
    stated = {"kind": "vlm_preference", "weight": 1.0, "service": service(f"{url}/v1"), "model": "m"}
    stated |= {"question": "Which is {prompt}?", "both_orders": True, "top_logprobs": 5}
    return weighted(terms({"it": stated | more}, "r"), Given(None, "cpu"))


GROUPS = [Prompt("a day")] * 3 + [Prompt("a night")] * 2
SHADES = torch.stack([torch.full((3, 4, 4), value) for value in (0.8, 0.2, 0.4, 0.6, 0.2)])


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_a_preference_is_the_share_of_its_group_that_a_sample_is_better_than(cache):
    """Both orders cancel what the judge gives to a place, up to the curve of its answers."""
    asked = []

    def noted(path, content):
        asked.append(content)
        return preferring(path, content)

    with answering(noted) as url:
        found = preference(url)(SHADES, GROUPS)
        assert sum(content is not None for content in asked) == 3 * 2 + 2 * 1
        assert "Which is a night?" in str(asked)
        alone = preference(url)(SHADES[3:], GROUPS[3:])
        other = preference(url, both_orders=False)(SHADES, GROUPS)
        turned = preference(url)(SHADES.flip(0), GROUPS[::-1])
    bright = [round(255 * value) / 255 for value in (0.8, 0.2, 0.4, 0.6, 0.2)]

    def beats(i, j):
        lead = 5 * (bright[i] - bright[j])
        return (sigmoid(lead + 0.3) + sigmoid(lead - 0.3)) / 2

    expected = [(beats(i, j) + beats(i, k)) / 2 for i, j, k in ((0, 1, 2), (1, 0, 2), (2, 0, 1))]
    torch.testing.assert_close(found, torch.tensor([*expected, beats(3, 4), beats(4, 3)]), atol=1e-4, rtol=0)
    assert torch.equal(alone, found[3:]), "other groups change nothing"
    torch.testing.assert_close(turned.flip(0), found)
    assert found[:3].mean().item() == pytest.approx(0.5)
    assert other[0] > found[0], "shown first, it has what the judge gives to that place"
    assert other[4] < found[4]


def test_the_first_preference_stands(cache):
    with answering(preferring) as url:
        first = preference(url)(SHADES, GROUPS)
        with answering(lambda path, _: (200, {}) if path.endswith("/models") else (500, {})):
            assert torch.equal(preference(url)(SHADES, GROUPS), first)


def test_without_a_comparison_there_is_no_preference(cache):
    silent = {"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "both", "logprob": 0.0}]}]}}]}
    with answering(lambda _path, _content: (200, silent)) as url:
        assert preference(url)(SHADES, GROUPS).isnan().all()
        assert preference(url)(SHADES[:1], GROUPS[:1]).isnan().all(), "alone there is nothing to compare"
        assert preference(url)(SHADES[:0], []).shape == (0,)


def test_of_videos_frames_of_one_time_are_compared(cache):
    """Shown as films whose second frame turns the order round, all are as good."""
    films = torch.stack([SHADES[:3], SHADES[:3].flip(0)], dim=2)
    with answering(preferring) as url:
        still = preference(url)(SHADES[:3], GROUPS[:3])
        film = preference(url)(films, GROUPS[:3])
    torch.testing.assert_close(film, (still + still.flip(0)) / 2)


def test_a_question_has_a_place_for_the_prompt():
    stated = {"kind": "vlm_judge", "weight": 1.0, "service": service("http://h"), "model": "m", "question": "Good?"}
    with pytest.raises(ValueError, match=r"r\.it\.question: should hold \{prompt\}"):
        terms({"it": stated | {"top_logprobs": 5}}, "r")
