"""A folder of captioned images: both forms, what becomes of an image, and every fault by its file."""

import json
import os
import random
import re

import numpy as np
import pytest
import torch
from PIL import Image

from stages.core.config import check
from stages.core.prompts import Prompt
from stages.io import folder
from tests import pictures

SECTION = {
    "name": "folder", "path": "x", "size": 8, "channels": 3, "resample": "lanczos", "test_fraction": 0.2,
    "num_heldout_prompts": 0,
}  # fmt: skip


def config(**changes):
    return check(folder.Folder, SECTION | changes, "dataset")


def lines(root, *rows):
    root.mkdir(exist_ok=True)
    (root / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


def put(root, name, image=None, text="a red disc"):
    """An image with its caption beside it."""
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new("RGB", (8, 8), "red")).save(root / name)
    if text is not None:
        (root / name).with_suffix(".txt").write_text(text)


def decoded(root, **changes):
    return folder.decode(config(**changes), root, folder.survey(root))


@pytest.mark.parametrize("in_lines", [True, False])
def test_both_forms_say_the_same(tmp_path, in_lines):
    pictures.fill(tmp_path, 2, in_lines=in_lines)
    found = folder.survey(tmp_path)
    assert [each.file for each in found] == sorted(each.file for each in found)
    assert {each.prompt.text for each in found} == set(pictures.PROMPTS)
    assert found[3] == folder.Captioned("0003.png", Prompt("a green square"))


def test_facts_and_folders_of_the_folder_and_a_caption_in_lines(tmp_path):
    put(tmp_path, "b/cat.png", text=None)
    put(tmp_path, "a.JPG", text=None)
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "LICENSE").write_text("free")
    lines(
        tmp_path,
        {"file_name": "./b/cat.png", "text": " a\n cat ", "facts": {"n": 1}},
        {"file_name": "a.JPG", "text": "x"},
    )
    assert folder.survey(tmp_path) == [
        folder.Captioned("a.JPG", Prompt("x")),
        folder.Captioned("b/cat.png", Prompt("a cat", {"n": 1})),
    ]


def test_an_image_of_the_size_is_what_it_was(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    put(tmp_path, "a.png", Image.fromarray(pixels))
    assert torch.equal(decoded(tmp_path)[0], torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)


def test_the_middle_is_cut_out_and_resized(tmp_path):
    wide = Image.new("RGB", (30, 10), "blue")
    wide.paste((255, 255, 255), (10, 0, 20, 10))
    put(tmp_path, "a.png", wide)
    assert torch.equal(decoded(tmp_path, size=5, resample="box"), torch.ones(1, 3, 5, 5))


def test_a_photograph_stands_as_its_camera_says(tmp_path):
    image = Image.new("RGB", (8, 8), "black")
    image.paste((255, 255, 255), (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "a.png", exif=exif)
    (tmp_path / "a.txt").write_text("x")
    assert decoded(tmp_path)[0, :, :4].max() == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_of_eight_bits_becomes_grey_or_rgb(tmp_path, mode):
    put(tmp_path, "a.png", Image.new("L", (8, 8), 255).convert("RGB").convert(mode))
    for channels in (1, 3):
        assert torch.equal(decoded(tmp_path, channels=channels), torch.ones(1, channels, 8, 8))


def test_what_is_transparent_is_white(tmp_path):
    put(tmp_path, "a.png", Image.new("RGBA", (8, 8), (255, 0, 0, 0)))
    assert decoded(tmp_path).min() == 1


def test_every_filter_is_live(tmp_path):
    put(tmp_path, "a.png", pictures.draw("red", "disc", random.Random(0)))
    made = [decoded(tmp_path, resample=name) for name in ("box", "bilinear", "bicubic", "lanczos")]
    assert not any(torch.equal(made[i], made[j]) for i in range(4) for j in range(i))


def test_the_digest_is_of_names_images_and_captions_and_of_nothing_else(tmp_path):
    def digest(root):
        return folder.digest(root, folder.survey(root))

    pictures.fill(tmp_path / "one", 1)
    pictures.fill(tmp_path / "two", 1, backwards=True)
    first = digest(tmp_path / "one")
    assert digest(tmp_path / "two") == first
    (tmp_path / "two/README.md").write_text("x")
    assert digest(tmp_path / "two") == first
    (tmp_path / "two/0000.txt").write_text("a red disk")
    assert digest(tmp_path / "two") != first
    (tmp_path / "one/0000.png").rename(tmp_path / "one/z.png")
    (tmp_path / "one/0000.txt").rename(tmp_path / "one/z.txt")
    assert digest(tmp_path / "one") != first


def faults_of(root):
    with pytest.raises(ValueError, match=re.escape(str(root))) as refusal:
        folder.survey(root)
    return [line.removeprefix(f"{root}: ") for line in str(refusal.value).splitlines()]


def test_a_folder_that_is_none_or_empty(tmp_path):
    assert faults_of(tmp_path / "nowhere") == ["no such folder; dataset.path names one of captioned images"]
    (tmp_path / "file").write_text("x")
    assert faults_of(tmp_path / "file") == ["no such folder; dataset.path names one of captioned images"]
    (tmp_path / "empty").mkdir()
    assert faults_of(tmp_path / "empty") == ["no images in it, whose names end with .png, .jpg, .jpeg, .webp"]


def test_everything_wrong_with_text_files_is_told_at_once(tmp_path):
    put(tmp_path, "good.png")
    put(tmp_path, "mute.png", text=None)
    put(tmp_path, "blank.png", text=" \n")
    put(tmp_path, "twin.png")
    put(tmp_path, "twin.jpg")
    put(tmp_path, "bytes.png")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "alone.txt").write_text("x")
    found = faults_of(tmp_path)
    assert found[1].startswith("'bytes.txt': no text that can be read")
    assert sorted(found[:1] + found[2:]) == [
        "'alone.txt': no image of this name",
        "'blank.png': no caption, 'blank.txt' is empty",
        "'mute.png': no caption; 'mute.txt' is missing, and there is no metadata.jsonl",
        "'twin.png': 'twin.jpg' has the same caption, 'twin.txt'; rename one",
    ]


def test_everything_wrong_with_lines_is_told_at_once(tmp_path):
    for name in ("a.png", "b.png", "mute.png"):
        put(tmp_path, name, text=None)
    (tmp_path / "metadata.jsonl").write_text(
        """{"file_name": "a.png", "text": "x", "facts": {"n": 1}}
{"file_name": "a.png", "text": "y"}
{"file_name": "b.png", "text": "x", "facts": {"n": 2}}
{"file_name": "c.png", "text": "x", "facts": {"n": 1}}
{"file_name": "../out.png", "text": "z"}
{"file_name": "b.png"
[1]
{"file_name": "b.png", "txt": "x"}
{"file_name": 3, "text": "x"}
{"file_name": "b.png", "text": " "}
{"file_name": "b.png", "text": "x", "facts": [1]}
"""
    )
    found = faults_of(tmp_path)
    told = [line.partition(":")[0] for line in found]
    assert told == [*(f"metadata.jsonl line {n}" for n in (2, 4, 5, 6, 7, 8, 9, 10, 11)), "'mute.png'", "'b.png'"]
    assert found[0].endswith("'a.png' has a line already")
    assert found[1].endswith("no image 'c.png' in the folder")
    assert found[2].endswith("no image '../out.png' in the folder")
    assert found[-1].endswith("its facts are not those of other images of the prompt 'x'")


@pytest.mark.parametrize("task", ["[1]", "3", '""', '"a/b"', '"two objects"'])
def test_a_task_that_names_no_metric_is_refused_before_anything_is_trained(tmp_path, task):
    put(tmp_path, "a.png", text=None)
    line = f'{{"file_name": "a.png", "text": "x", "facts": {{"task": {task}}}}}'
    (tmp_path / "metadata.jsonl").write_text(line)
    assert "line 1: 'a.png': the fact task names a score of its own" in faults_of(tmp_path)[0]


def test_links_out_of_the_folder_and_to_nowhere_are_refused(tmp_path):
    root = tmp_path / "photos"
    put(root, "good.png")
    put(tmp_path, "secret.png")
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "out.txt").symlink_to("/etc/hostname")
    (root / "dangling.png").symlink_to(root / "gone.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "elsewhere").symlink_to(tmp_path)
    (root / "fine.png").symlink_to(root / "good.png")
    (root / "fine.txt").write_text("x")
    os.mkfifo(root / "pipe.png")
    found = {line.partition(":")[0]: line.partition(": ")[2] for line in faults_of(root)}
    assert set(found) == {"'out.png'", "'out.txt'", "'dangling.png'", "'loop.png'", "'elsewhere'", "'pipe.png'"}
    assert found["'out.png'"] == found["'elsewhere'"] == "a link out of the folder; put a copy in its place"
    assert found["'pipe.png'"] == "no regular file"


def test_a_name_that_cannot_be_printed_is_told_in_one_line(tmp_path):
    put(tmp_path, "a\nb.png", text=None)
    assert faults_of(tmp_path) == [r"'a\nb.png': a name that cannot be printed; rename it"]


def test_many_faults_are_not_all_told(tmp_path):
    for number in range(40):
        (tmp_path / f"{number}.png").write_bytes(b"")
    found = faults_of(tmp_path)
    assert len(found) == 31
    assert found[-1] == "and 10 faults more"


def test_images_that_cannot_be_read_are_told_together(tmp_path):
    picture = pictures.draw("red", "disc", random.Random(0), 64)
    put(tmp_path, "good.png", picture)
    for ending in ("png", "jpg", "webp"):
        file = tmp_path / f"cut-{ending}.{ending}"
        put(tmp_path, file.name, picture)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    put(tmp_path, "gif.png", picture)
    picture.save(tmp_path / "gif.png", "GIF")
    put(tmp_path, "deep.png", Image.new("I;16", (8, 8)))
    put(tmp_path, "empty.png")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(ValueError, match="no image that can be read") as refusal:
        decoded(tmp_path)
    told = [line.removeprefix(f"{tmp_path}: ").partition(":")[0] for line in str(refusal.value).splitlines()]
    assert told == ["'cut-jpg.jpg'", "'cut-png.png'", "'cut-webp.webp'", "'deep.png'", "'empty.png'", "'gif.png'"]
    assert "more than 8 bits a channel; save it with 8" in str(refusal.value)


def test_a_picture_too_large_for_sense_is_refused(tmp_path, monkeypatch):
    put(tmp_path, "a.png", Image.new("L", (30, 30)))
    for most in (500, 100):  # Pillow warns above it, and refuses above twice as many
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(ValueError, match=r"'a\.png': no image that can be read"):
            decoded(tmp_path)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_damaged_bytes_are_an_image_or_a_fault(tmp_path, ending):
    file = tmp_path / f"a.{ending}"
    put(tmp_path, file.name, pictures.draw("red", "disc", random.Random(0)))
    whole, rng = file.read_bytes(), random.Random(1)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        file.write_bytes(damaged)
        try:
            found = decoded(tmp_path)
        except ValueError as refusal:
            assert f"'{file.name}': no image that can be read" in str(refusal)  # noqa: PT017 - damage may be harmless
        else:
            assert bool(((found >= 0) & (found <= 1)).all())
