"""A shard is a safetensors file like any other."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.core import hashing
from stages.io import shards

KINDS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool]


def tensors(count=5):
    rng = torch.Generator().manual_seed(0)
    return {
        f"t{i}-{'é' if i % 2 else 'b'}": (torch.randn(count, i + 1, 3, generator=rng) * 50).to(kind)
        for i, kind in enumerate(KINDS)
    }


def read(file):
    return shards.Shard(file.name, file).read()


def test_each_reads_what_the_other_wrote(tmp_path):
    found = tensors()
    shards.write(tmp_path / "ours", found)
    save_file(found, tmp_path / "theirs", metadata={"a": "b"})
    for got in (load_file(tmp_path / "ours"), read(tmp_path / "theirs")):
        assert got.keys() == found.keys()
        assert all(torch.equal(got[name], found[name]) and got[name].dtype == found[name].dtype for name in found)


def test_the_bytes_are_what_they_always_were(tmp_path):
    """They decide the digest of every artefact with shards. The number is of fewstep's own codec, and of 0.8.0."""
    count = torch.arange(6)
    shards.write(tmp_path / "s", {"é": count.half().reshape(6, 1), "n": count, "b": count.bfloat16(), "a": count > 2})
    assert hashing.sha256_of_file(tmp_path / "s") == "4c13d76f8aa34a8509a1ccabe83c74c2e2f05a160fee8373c2779231f9eb57f6"


def test_a_folders_shards_come_in_order_and_only_what_is_asked_for_is_read(tmp_path):
    for number in (2, 0, 1):
        shards.write(tmp_path / shards.name(number), {"a": torch.full((2, 2), number), "b": torch.zeros(2)})
    found = [shard.read(["a"]) for shard in shards.folder(tmp_path)]
    assert [list(each) for each in found] == [["a"]] * 3
    assert [each["a"][0, 0].item() for each in found] == [0, 1, 2]
    found[0]["a"].add_(1)  # it is ours to change


def test_what_a_shard_does_not_hold_is_named(tmp_path):
    shards.write(tmp_path / "s", {"x": torch.zeros(100)})
    with pytest.raises(ValueError, match=r"s: .*noise"):
        shards.Shard("s", tmp_path / "s").read(["noise"])


@pytest.mark.parametrize("content", [b"", b"\x00" * 9, b"\xff" * 64, b"\x04" + b"\x00" * 7 + b"{{{{"])
def test_what_is_no_shard_is_named(tmp_path, content):
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(ValueError, match="s: not a whole safetensors file"):
        read(tmp_path / "s")


def test_a_shard_that_ends_early_is_named(tmp_path):
    shards.write(tmp_path / "s", {"x": torch.zeros(100)})
    (tmp_path / "s").write_bytes((tmp_path / "s").read_bytes()[:-8])
    with pytest.raises(ValueError, match="s: not a whole safetensors file"):
        read(tmp_path / "s")
