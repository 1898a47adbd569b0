"""Prompts as raw data: every form, how they are held out, and what is refused."""

import io
import json
import os
import tarfile
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save as tensors

from stages.core.config import check
from stages.io import prompts, raw, storage
from tests import s3

NONE = {"by": "none"}


def config(path, heldout=NONE, **more):
    stated = {"name": "prompts", "path": str(path), "column": "prompt", "heldout": heldout, "height": 8, "width": 12,
              "channels": 3, "resample": "box"}  # fmt: skip
    return check(prompts.Prompts, stated | more, "dataset")


def read(path, heldout=NONE, seed=0, **more):
    cfg = config(path, heldout, **more)
    found = prompts.files(cfg)
    return prompts.dataset(cfg, found, raw.digest(found), seed)


def lines(folder, rows, name="prompts.jsonl"):
    (folder / name).write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return folder / name


def texts(data, split):
    return [data.prompts[place].text for place in data.places(split)]


def shard(file, members):
    with tarfile.open(file, "w") as made:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return file


def png(shade=128, size=(12, 8)):
    file = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_a_prompt_a_line(tmp_path):
    data = read(lines(tmp_path, ["a red  cat", "", " a dog"], "p.txt"))
    assert [prompt.text for prompt in data.prompts] == ["a red cat", "a dog"]
    assert data.sample_shape == (3, 8, 12)
    assert not data.has_real


def test_geneval_reaches_the_reward_whole(tmp_path):
    row = {"tag": "counting", "include": [{"class": "cat", "count": 2}], "exclude": [{"class": "dog", "count": 1}]}
    (prompt,) = read(lines(tmp_path, [{**row, "prompt": "two cats", "id": 7, "negative_prompt": "blur"}])).prompts
    assert prompt.facts == {**row, "task": "counting"}
    assert (prompt.id, prompt.negative) == ("7", "blur")


def test_a_dataset_says_again_what_it_was_told(tmp_path):
    data = read(
        lines(tmp_path, [{"prompt": "a", "id": "x", "negative_prompt": "n", "facts": {"text": "hi"}}, {"prompt": "b"}])
    )
    data.save(tmp_path)
    assert list(type(data).load(tmp_path).prompts) == list(data.prompts)


def test_parquet_without_its_images(tmp_path):
    pictures = [{"bytes": png(), "path": "a.png"}] * 2
    table = pa.table({"caption": ["a", "b"], "image": pictures, "extra": [{"n": 1}, {"n": 2}]})
    pq.write_table(table, tmp_path / "p.parquet")
    data = read(tmp_path / "p.parquet", column="caption")
    assert [prompt.facts for prompt in data.prompts] == [{"extra": {"n": 1}}, {"extra": {"n": 2}}]
    with pytest.raises(ValueError, match=r"no column 'prompt'; dataset.column names one of caption, image, extra"):
        read(tmp_path / "p.parquet")


def test_a_tar_with_images(tmp_path):
    members = {"0.png": png(255), "0.json": b'{"prompt": "white", "tag": "x"}', "1.png": png(0), "1.txt": b"black"}
    data = read(shard(tmp_path / "s.tar", members), {"by": "column", "column": "prompt", "values": ["black"]})
    assert (texts(data, "seen"), texts(data, "heldout")) == (["white"], ["black"])
    assert data.train_images.shape == data.test_images.shape == (1, 3, 8, 12)
    assert (data.train_images.mean(), data.test_images.mean()) == (1, 0)
    assert data.has_real


@pytest.mark.parametrize("ending", ["npy", "safetensors"])
def test_a_tar_with_latents(tmp_path, ending):
    latent = torch.randn(4, 2, 3)
    content = npy(latent.numpy()) if ending == "npy" else tensors({"latent": latent})
    data = read(shard(tmp_path / "s.tar", {f"a.latent.{ending}": content, "a.txt": b"a cat"}))
    assert data.space == "latents"
    assert torch.equal(data.train_images[0], latent)
    assert not data.has_real, "nobody but the model can look at them"


def test_a_folder_of_shards_is_read_by_name(tmp_path):
    for number in (1, 0):
        shard(tmp_path / f"{number:05d}.tar", {"x.txt": f"prompt {number}".encode()})
    assert [prompt.text for prompt in read(tmp_path).prompts] == ["prompt 0", "prompt 1"]


def test_nothing_is_unpickled(tmp_path):
    with pytest.raises(ValueError, match=r"s\.tar 0: holds a pickle, \.pth, and nothing is unpickled"):
        read(shard(tmp_path / "s.tar", {"0.txt": b"a", "0.latent.pth": b"cposix\nsystem\n"}))
    objects = np.array([{"a": 1}], dtype=object)
    with pytest.raises(ValueError, match=r"no latent that can be read"):
        read(shard(tmp_path / "t.tar", {"0.txt": b"a", "0.npy": npy(objects)}))


def test_a_share_is_held_out_by_what_prompts_have_in_common(tmp_path):
    rows = [f"prompt {number // 2}" if number % 2 else f"PROMPT  {number // 2}" for number in range(40)]
    file = lines(tmp_path, rows, "p.txt")
    data = read(file, {"by": "fraction", "fraction": 0.25})
    apart = {prompts.normalised(text) for text in texts(data, "heldout")}
    assert len(apart) == 5
    assert not apart & {prompts.normalised(text) for text in texts(data, "seen")}
    assert texts(read(file, {"by": "fraction", "fraction": 0.25}, seed=1), "heldout") != texts(data, "heldout")


def test_a_second_file_is_held_out(tmp_path):
    lines(tmp_path, ["a", "b"], "train.txt")
    lines(tmp_path, ["c"], "test.txt")
    data = read(tmp_path, {"by": "file"})
    assert (texts(data, "seen"), texts(data, "heldout")) == (["a", "b"], ["c"])
    lines(tmp_path, ["d"], "other.txt")
    with pytest.raises(ValueError, match=r"files called train\.\.\. and test\.\.\."):
        read(tmp_path, {"by": "file"})


def test_a_prompt_in_both_splits_is_refused_whatever_its_letters(tmp_path):
    lines(tmp_path, ["A cat"], "train.txt")
    lines(tmp_path, ["a  CAT"], "test.txt")
    with pytest.raises(
        ValueError, match=r"train\.txt line 1: 'A cat' is seen, and test\.txt line 1 has it in the other"
    ):
        read(tmp_path, {"by": "file"})


def test_a_prompt_that_stands_twice_is_one_and_of_one_mind(tmp_path):
    data = read(lines(tmp_path, [{"prompt": "a", "id": 1}, {"prompt": "b"}, {"prompt": "a", "id": 2}]))
    assert [prompt.text for prompt in data.prompts] == ["a", "b"]
    with pytest.raises(ValueError, match=r"line 2: says otherwise of the prompt 'a' than prompts\.jsonl line 1"):
        read(lines(tmp_path, [{"prompt": "a", "n": 1}, {"prompt": "a", "n": 2}]))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r"line 2: not JSON"),
        ("[1]", r"line 2: should be a mapping"),
        ({"text": "a"}, r"line 2: no prompt in 'prompt' \(got None\); dataset\.column names one of text"),
        ({"prompt": " "}, r"line 2: no prompt in 'prompt'"),
        ({"prompt": "a", "tag": "no word"}, r"line 2: the task names a score of its own"),
        ({"prompt": "a", "facts": 3}, r"line 2: facts should be a mapping"),
        ({"prompt": "a", "negative_prompt": 3}, r"line 2: negative_prompt should be text"),
    ],
)
def test_what_is_wrong_with_a_row_is_told_by_its_line(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        read(lines(tmp_path, [{"prompt": "good"}, row]))


def test_all_faults_are_told_together(tmp_path):
    with pytest.raises(ValueError, match=r"line 1.*\n.*line 2"):
        read(lines(tmp_path, ["{", "{"]))


def test_what_is_no_data_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"dataset\.path=.*nothing is there"):
        read(tmp_path / "nowhere")
    lines(tmp_path, ["a"], "p.csv")
    with pytest.raises(ValueError, match=r"holds no such files; it names one, or a folder of them: \.txt, \.jsonl"):
        read(tmp_path)
    lines(tmp_path, ["a"], "p.txt")
    lines(tmp_path, [{"prompt": "a"}], "p.jsonl")
    with pytest.raises(ValueError, match=r"files of several kinds"):
        read(tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/p.tar").write_bytes(b"no tar")
    with pytest.raises(ValueError, match=r"p\.tar: no tar that can be read"):
        read(tmp_path / "bad")
    with pytest.raises(ValueError, match=r"holds out all of the 1 prompts"):
        read(lines(tmp_path, [{"prompt": "a", "split": "test"}], "q.jsonl"),
             {"by": "column", "column": "split", "values": ["test"]})  # fmt: skip


def test_another_order_of_the_files_bytes_is_another_digest(tmp_path):
    file = lines(tmp_path, ["a", "b"], "p.txt")
    first = raw.digest(prompts.files(config(file)))
    lines(tmp_path, ["b", "a"], "p.txt")
    assert raw.digest(prompts.files(config(file))) != first


def test_prompts_lie_on_s3_as_well():
    with s3.server("bucket") as endpoint, mock.patch.dict(os.environ):
        storage.use(endpoint)
        root = "s3://bucket/own"
        storage.filesystem().pipe_file(f"{root}/train.jsonl", b'{"prompt": "a"}')
        storage.filesystem().pipe_file(f"{root}/test.jsonl", b'{"prompt": "b"}')
        data = read(root, {"by": "file"})
        assert (texts(data, "seen"), texts(data, "heldout")) == (["a"], ["b"])
        assert texts(read(f"{root}/train.jsonl"), "seen") == ["a"]
        with pytest.raises(ValueError, match=r"nothing is there"):
            read("s3://bucket/nowhere")
