"""What parameters tell of a dataset is so: the sizes and words that stages are held against before any is made."""

import pytest

from stages import dataset
from stages.core.config import check
from stages.io.job import Job

JOB = Job(stage="dataset", arm=None, seed=3, section={}, inputs={})
MIXTURE = {
    "name": "mixture", "dimension": 3, "num_components": 4, "radius": 2.0, "min_std": 0.1, "max_std": 0.3,
    "num_train": 50, "num_test": 40,
}  # fmt: skip


def configured(**section):
    return check(dataset.Config, section, "dataset")


@pytest.mark.parametrize(("test_fraction", "num_heldout"), [(0.2, 18), (0.5, 0)])
def test_of_the_digits(test_fraction, num_heldout):
    cfg = configured(name="digits", test_fraction=test_fraction, num_heldout_prompts=num_heldout)
    told, made = dataset.expect(cfg, JOB, {}).dataset, dataset.digits(cfg, JOB.seed)
    assert (told.kind, told.sample_shape) == ("digits", made.sample_shape)
    assert all(tuple(prompt.facts) == told.attributes for prompt in made.prompts)
    assert told.prompts == {prompt.text for prompt in made.prompts}
    assert told.num_test == len(made.test_images)
    assert told.num_train >= len(made.train_images)
    assert told.num_seen >= len(made.places("seen"))


def test_of_a_mixture():
    cfg = configured(**MIXTURE)
    told, made = dataset.expect(cfg, JOB, {}).dataset, dataset.mixture(cfg, JOB.seed)
    assert (told.kind, told.sample_shape) == ("mixture", made.sample_shape)
    assert all(tuple(prompt.facts) == told.attributes for prompt in made.prompts)
    assert told.prompts == {prompt.text for prompt in made.prompts}
    assert (told.num_train, told.num_test) == (len(made.train_images), len(made.test_images))
    assert told.num_seen == len(made.places("seen"))


def test_a_component_with_a_single_test_sample_is_the_one_that_is_drawn():
    alone = []
    for num_test in range(2, 12):
        cfg = configured(**MIXTURE | {"num_test": num_test})
        counts = dataset.mixture(cfg, JOB.seed).test_prompts.bincount().tolist()
        alone.append(1 in counts)
        if 1 in counts:
            with pytest.raises(ValueError, match=rf"num_test={num_test}: component {counts.index(1)} has a single"):
                dataset.expect(cfg, JOB, {})
        else:
            dataset.expect(cfg, JOB, {})
    assert any(alone)
