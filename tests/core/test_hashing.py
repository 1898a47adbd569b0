"""Digests are the standard ones, and of several files it is their paths and bytes that count."""

from stages.core import hashing


def test_digests_are_the_standard_ones(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hashing.sha256(b"abc") == hashing.sha256_of_file(tmp_path / "f") == known
    assert hashing.md5(b"abc") == hashing.md5_of_file(tmp_path / "f") == "900150983cd24fb0d6963f7d28e17f72"


def test_of_several_files_their_names_and_bytes_count_but_not_their_order(tmp_path):
    files = [tmp_path / "a.py", tmp_path / "b.py"]
    for file in files:
        file.write_text(file.name)
    first = hashing.sha256_of_files(tmp_path, files)
    assert first == hashing.sha256_of_files(tmp_path, reversed(files))
    files[0].rename(tmp_path / "c.py")
    assert first != hashing.sha256_of_files(tmp_path, [tmp_path / "c.py", files[1]])
    files[1].write_text("other")
    (tmp_path / "c.py").rename(files[0])
    assert first != hashing.sha256_of_files(tmp_path, files)
