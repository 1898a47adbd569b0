"""One way to write tensors: as they are seen, with the umask's permissions; a full disk is the system's error."""

import errno
import os
import resource
import shutil
from contextlib import contextmanager

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from stages.core import tensors

_, MOST = resource.getrlimit(resource.RLIMIT_FSIZE)


@contextmanager
def cramped():
    """No file of this process may grow beyond 1000 bytes; nor the one that pytest's own words may go to."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, MOST))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MOST, MOST))


def test_a_view_is_written_as_it_is_seen_with_what_is_told_of_it(tmp_path):
    whole = torch.arange(24).reshape(4, 6)
    tensors.save(tmp_path / "x", {"x": whole.T[:, ::2]}, {"who": "me"})
    assert torch.equal(load_file(tmp_path / "x")["x"], whole.T[:, ::2])
    with safe_open(tmp_path / "x", "pt") as content:
        assert content.metadata() == {"who": "me"}


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_who_may_read_it_is_said_by_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        tensors.save(tmp_path / "x", {"x": torch.zeros(3)})
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_full_disk_is_the_systems_error(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2000, 1000, 1000))
    with pytest.raises(OSError, match="No space left") as raised, cramped():
        tensors.save(tmp_path / "x", {"x": torch.zeros(1000)})
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "x"))


def test_another_fault_of_writing_is_no_full_disk(tmp_path):
    with pytest.raises(SafetensorError, match="too large"), cramped():
        tensors.save(tmp_path / "x", {"x": torch.zeros(1000)})


def test_the_same_facts_are_the_same_bytes(tmp_path):
    facts = {"who": "me", "when": 'now \u00e9\n"', "where": "{}", "why": ""}
    for number in range(8):  # the library alone writes them in 24 orders
        tensors.save(tmp_path / str(number), {"x": torch.ones(3)}, facts)
    assert len({(tmp_path / str(number)).read_bytes() for number in range(8)}) == 1
    with safe_open(tmp_path / "0", framework="pt") as file:
        assert file.metadata() == facts
        assert torch.equal(file.get_tensor("x"), torch.ones(3))
