"""Reward workers on a real Ray: what they say is what the stage's own reward says, whoever dies."""

import subprocess
import sys
import sysconfig
from contextlib import ExitStack
from dataclasses import replace

import pytest

from flows.project.nodes import STAGES, Node
from flows.project.resources import JUDGED, Compute
from flows.runtime.errors import Passing
from flows.workers import beside, reward_workers, train_group
from flows.workers.reward_workers import Panel
from stages.core.prompts import Prompt
from stages.io import run
from stages.io.dataset import Dataset
from stages.io.job import Job
from tests.composed import params_of
from tests.flows.compute import COMPUTE
from tests.waiting import PATIENCE_S, wait_for

pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray Train's settings


def compute(**changes):
    return Compute.of({"compute": COMPUTE | {"rewards": COMPUTE["rewards"] | changes}})


def bench(place_s=PATIENCE_S, **changes):
    made = Compute.of({"compute": COMPUTE | {"place_s": place_s, "rewards": COMPUTE["rewards"] | changes}})
    return reward_workers.bench(made, "rl")


def test_the_stages_that_can_be_judged_say_how():
    jobs = [Job(stage=stage, arm=None, seed=0, section={}, inputs={}) for stage in STAGES]
    assert tuple(job.stage for job in jobs if hasattr(run.module_of(job), "reward")) == JUDGED


def test_judges_are_for_stages_that_sample():
    assert compute(workers=2).judges_of("rl") == 2
    assert compute(workers=2).judges_of("teacher") == 0
    assert bench(workers=2).beside({"id": "rl.dgpo"}).count == 0, "of evaluate's units only those that score"
    assert bench(workers=2).beside({"id": "reward.a.rl.dgpo", "judged": "samples"}).count == 2
    with pytest.raises(ValueError, match=r"compute\.rewards\.workers: .*greater than or equal to 0"):
        compute(workers=-1)


def test_samples_that_are_compared_go_to_one_judge():
    a, b, c = map(Prompt, "abc")
    prompts, two = [a] * 4 + [b] * 2 + [c] * 2, [None, None]
    assert Panel(two, 1.0, whole_groups=False)._parts(prompts) == [slice(0, 4), slice(4, 8)]
    assert Panel(two, 1.0, whole_groups=True)._parts(prompts) == [slice(0, 6), slice(6, 8)]
    assert Panel(two, 1.0, whole_groups=False)._parts([a] * 5) == [slice(0, 3), slice(3, 5)]
    assert Panel(two, 1.0, whole_groups=True)._parts([a] * 5) == [slice(0, 5)], "the other has nothing to do"


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder, content = tmp_path_factory.mktemp("made"), params_of("experiment=smoke")
    inputs = {}
    for stage in ("dataset", "verifier"):
        made = Job(stage=stage, arm=None, seed=0, section=content[stage], inputs=dict(inputs))
        run.run(made, folder / stage, folder / "work", lambda *_: None)
        inputs[stage] = str(folder / stage)
    section = Node("rl", "dgpo").section(content)
    return Job(stage="rl", arm="dgpo", seed=0, section=section, inputs=inputs)


@pytest.fixture(scope="module")
def truth(job):
    """Images, prompts of which some are theirs, and their rewards."""
    dataset = Dataset.load(job.input("dataset"))
    images, places = dataset.train_images[:9], dataset.train_prompts[:9].roll(1)
    places[:4] = dataset.train_prompts[:4]
    prompts = [dataset.prompts[place] for place in places.tolist()]
    rewards = run.reward(job, {})(images, prompts)
    assert rewards.shape == (9, 1)
    assert len(rewards.unique()) > 1
    return images, prompts, rewards


@pytest.mark.integration
def test_they_say_what_the_reward_says_even_if_one_dies(living, job, truth):
    images, prompts, rewards = truth
    with reward_workers.seated(bench(workers=2), job.to_json(), {}) as (panel, nodes):
        assert len(nodes) == 2
        for count in (9, 1):  # parts of 5 and 4; one of them with nothing to do
            assert panel(images[:count], prompts[:count]).tolist() == rewards[:count].tolist()
        first, second = living("Judge")
        first.kill()
        assert panel(images, prompts).tolist() == rewards.tolist()
        assert second in living("Judge")
    wait_for(lambda: not living("Judge"))


@pytest.mark.integration
def test_a_judge_that_keeps_dying_ends_it(living, job, truth):
    images, prompts, _ = truth

    def ask(panel):
        while True:
            for each in living("Judge"):
                each.kill()
            panel(images, prompts)

    message = r"a reward worker died 4 times; .*run it again"
    with (
        reward_workers.seated(bench(workers=1), job.to_json(), {}) as (panel, _),
        pytest.raises(Passing, match=message),
    ):
        ask(panel)


@pytest.mark.integration
def test_what_a_judge_raises_is_raised_here(cluster, job, truth):
    images = truth[0]
    with (
        reward_workers.seated(bench(workers=1), job.to_json(), {}) as (panel, _),
        pytest.raises(ValueError, match=r"^prompt 'something': its facts do not say"),
    ):
        panel(images, [Prompt("something")] * 9)


@pytest.mark.integration
def test_no_room_is_said_after_a_while(cluster, job):
    message = r"no room for 3 reward workers of 1 CPU each within 2 s; end what holds it, lower compute\.rewards"
    with pytest.raises(ValueError, match=message), reward_workers.seated(bench(2.0, workers=3), job.to_json(), {}):
        pass


@pytest.mark.integration
def test_a_gang_too_says_that_it_found_no_room(cluster, job, tmp_path):
    gang = train_group.Gang(workers=3, cpus=1, gpus=0, place_s=2.0, silence_s=PATIENCE_S)
    message = r"no room for 3 workers of 1 CPU each within 2 s; end what holds it, lower compute\.workers"
    with pytest.raises(ValueError, match=message):
        train_group.train(job.to_json(), {"id": "all"}, str(tmp_path / "all"), str(tmp_path / "report"), gang, {})


@pytest.mark.integration
def test_two_units_do_not_wait_for_each_others_judges(cluster, job):
    """Each takes both cores, one for itself and one for its judge; one after the other they find room."""
    import ray

    asked = bench(workers=1)

    @ray.remote(max_retries=0)
    def unit(told):
        with reward_workers.seated(asked, told, {}) as (_, nodes):
            return nodes

    with ExitStack() as stack:
        soon = ExitStack()
        places = [held.enter_context(beside.placement([asked], {"CPU": 1.0})) for held in (soon, stack)]
        first, second = (unit.options(num_cpus=1, **place).remote(job.to_json()) for place in places)
        with soon:
            assert len(ray.get(first, timeout=PATIENCE_S)) == 1
            assert not ray.wait([second], timeout=1)[0], "there is no room for two"
        assert len(ray.get(second, timeout=PATIENCE_S)) == 1


ENGINE = """
from types import SimpleNamespace


class RapidOCR:
    '''Another release of the package, which reads one thing whatever it sees.'''

    def __init__(self, params):
        pass

    def __call__(self, image, **switches):
        return SimpleNamespace(txts=("of another environment",))
"""


@pytest.fixture
def environment(tmp_path):
    """An interpreter that has all of ours, and one package in another version."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    own = next((tmp_path / "env/lib").glob("python3*/site-packages"))
    (own / "rapidocr").mkdir()
    (own / "rapidocr/__init__.py").write_text(ENGINE)
    (own / "ours.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    return tmp_path / "env/bin/python"


@pytest.mark.integration
@pytest.mark.slow
def test_a_reward_whose_package_clashes_with_ours_has_an_environment_of_its_own(cluster, job, truth, environment):
    images = truth[0][:2]
    prompts = [Prompt('it says "of another environment"'), Prompt('it says "zzzz"')]
    reading = replace(job, section={**job.section, "rewards": {"it": {"kind": "ocr", "weight": 1.0, "reads": "page"}}})
    with reward_workers.seated(bench(workers=1, python=str(environment)), reading.to_json(), {}) as (panel, _):
        assert panel(images, prompts).tolist() == [[1.0], [0.0]]
    assert run.reward(reading, {})(images, prompts).tolist() == [[0.0], [0.0]], "our own sees no text there"
