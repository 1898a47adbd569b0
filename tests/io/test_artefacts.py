"""An artefact is whole or refused, and the refusal names the file and the command that repairs it."""

import json

import pytest

from stages.io import artefacts


@pytest.fixture
def artefact(tmp_path):
    build = tmp_path / "build"
    (build / "sub").mkdir(parents=True)
    (build / "sub" / "a.bin").write_bytes(b"12345678")
    out = tmp_path / "data" / "distill" / "tdm1"
    artefacts.commit(build, out, stage="distill", arm="tdm1")
    return out


def test_a_committed_artefact_verifies(artefact):
    assert artefacts.verify(artefact)["files"][0]["path"] == "sub/a.bin"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.write_bytes(b"1234"), r"a\.bin: truncated or grown, 4 bytes where 8"),
        (lambda f: f.write_bytes(b"12345679"), r"a\.bin: altered"),
        (lambda f: f.unlink(), r"a\.bin: missing"),
    ],
)
def test_damage_is_found_and_the_repair_is_named(artefact, damage, message):
    damage(artefact / "sub" / "a.bin")
    with pytest.raises(ValueError, match=message + ".*dvc checkout distill@tdm1"):
        artefacts.verify(artefact)


def test_what_a_killed_writer_left_is_not_content(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"1")
    (tmp_path / "model" / ".tmpX3kd9a").write_bytes(b"half of")  # as safetensors calls it
    (tmp_path / ".cost.json.4711").write_bytes(b"half of")  # as write_json does
    assert [entry["path"] for entry in artefacts.inventory(tmp_path)] == ["model/weights"]


def test_an_empty_folder_is_no_artefact(tmp_path):
    with pytest.raises(ValueError, match=r"no artefact here"):
        artefacts.verify(tmp_path)


def test_another_schema_is_refused(artefact):
    file = artefact / artefacts.MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 99}))
    with pytest.raises(ValueError, match="written by schema 99"):
        artefacts.verify(artefact)


def test_equal_payloads_have_equal_digests(tmp_path):
    digests = []
    for name in ("one", "two"):
        build = tmp_path / f"{name}.build"
        build.mkdir()
        (build / "x").write_bytes(b"same")
        artefacts.commit(build, tmp_path / name, stage="s", seed=1)
        digests.append(artefacts.digest(tmp_path / name))
    assert digests[0] == digests[1]


def test_a_damaged_unit_counts_as_unfinished(tmp_path):
    unit = tmp_path / "unit"
    unit.mkdir()
    (unit / "x").write_bytes(b"payload")
    assert not artefacts.sealed(unit)
    artefacts.seal(unit)
    assert artefacts.sealed(unit)
    (unit / "x").write_bytes(b"pay")
    assert not artefacts.sealed(unit)
