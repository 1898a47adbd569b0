"""Pairs are what they were, whether the noise is stored or made again, and in whatever type."""

import pytest
import torch

from stages.core.rng import normal_at
from stages.io import pairs, shards
from stages.io.pairs import Layout, Origin, Pairs

SHAPE = (2, 3, 3)


def written(folder, layout, rows=(4, 3)):
    folder.mkdir()
    noise = normal_at(5, "trajectories", 0, sum(rows), SHAPE)
    x0 = normal_at(5, "x0", 0, sum(rows), SHAPE)
    first = 0
    for number, count in enumerate(rows):
        part = slice(first, first + count)
        index = torch.arange(count) % 2
        layout.write(folder / shards.name(number), noise=noise[part], x0=x0[part], prompt_index=index)
        first += count
    shards.write_prompts(folder, ["a 3", "a 7"])
    layout.write_index(folder, rows)
    return noise, x0


@pytest.mark.parametrize("origin", [None, Origin(5, "trajectories")])
@pytest.mark.parametrize("dtype", pairs.DTYPES)
def test_pairs_come_back(tmp_path, dtype, origin):
    noise, x0 = written(tmp_path / "p", Layout(dtype, origin))
    found = Pairs(tmp_path / "p")
    read = [found.read(number) for number in range(2)]
    kind = pairs.DTYPES[dtype]
    assert torch.equal(torch.cat([part["x0"] for part in read]), x0.to(kind).float())
    expected = noise if origin else noise.to(kind).float()
    assert torch.equal(torch.cat([part["noise"] for part in read]), expected)
    assert (found.rows, found.prompts) == ([4, 3], ["a 3", "a 7"])
    assert found.first_prompts(6) == ["a 3", "a 7"] * 3
    assert len(found.first_prompts(100)) == 7


def test_noise_that_is_not_stored_takes_no_room(tmp_path):
    sizes = []
    for name, layout in {
        "whole": Layout("float32", None),
        "made": Layout("float32", Origin(5, "trajectories")),
        "half": Layout("float16", Origin(5, "trajectories")),
    }.items():
        written(tmp_path / name, layout, rows=(500,))
        sizes.append((tmp_path / name / shards.name(0)).stat().st_size)
    element = 500 * 18
    assert sizes[0] - sizes[1] == pytest.approx(4 * element, abs=100)
    assert sizes[1] - sizes[2] == pytest.approx(2 * element, abs=100)


def test_a_shard_that_is_gone_is_told(tmp_path):
    written(tmp_path / "p", Layout("float32", None))
    (tmp_path / "p" / shards.name(1)).unlink()
    with pytest.raises(ValueError, match=r"1 shards where pairs\.json names 2"):
        Pairs(tmp_path / "p")
