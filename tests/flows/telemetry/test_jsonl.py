"""A tail gives every whole line once, whatever becomes of the file."""

import json

import pytest

from flows.telemetry import jsonl


def put(file, *numbers, end="\n"):
    with file.open("a") as stream:
        stream.write("\n".join(json.dumps({"n": number}) for number in numbers) + end)


def numbers(lines):
    return [line["n"] for line in lines]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "events.jsonl"


@pytest.fixture
def tail(file):
    return jsonl.Tail(file)


def test_each_line_comes_once_and_only_when_it_is_whole(file, tail):
    assert tail.lines() == []
    put(file, 1, 2)
    assert numbers(tail.lines()) == [1, 2]
    put(file, 3, end="")
    assert tail.lines() == []
    with file.open("a") as stream:
        stream.write("\n")
    assert numbers(tail.lines()) == [3]
    assert tail.text() == b""


def test_a_file_that_was_cut_is_read_from_its_start(file, tail):
    put(file, 1, 2, 3)
    tail.lines()
    file.write_text("")
    put(file, 4)
    assert numbers(tail.lines()) == [4]


def test_a_file_that_was_moved_goes_on_where_it_lies_now(file, tail):
    put(file, 1)
    tail.lines()
    put(file, 2)
    tail.file = file.rename(file.with_name("kept.jsonl"))
    assert numbers(tail.lines()) == [2]


def test_a_line_that_a_full_disk_cut_short_is_left_out_with_the_next(file, tail):
    put(file, 1)
    put(file, 2, end="")
    file.write_text(file.read_text()[:-2])  # {"n": 1}\n{"n":
    put(file, 3, 4)
    assert numbers(tail.lines()) == [1, 4]


def test_what_could_not_be_used_stays_new(file, tail):
    def fail():
        with tail.once() as text:
            assert numbers(jsonl.parsed(text)) == [1]
            raise ConnectionError("the server is down")

    put(file, 1)
    with pytest.raises(ConnectionError):
        fail()
    assert numbers(tail.lines()) == [1]
    assert tail.lines() == []


def test_the_last_line_is_found_however_long_it_is(file):
    assert jsonl.last(file) is None
    file.write_text('{"n": 0')
    assert jsonl.last(file) is None
    file.unlink()
    put(file, *range(3000))
    put(file, "x" * 20_000)
    put(file, 5, end="")
    assert jsonl.last(file)["n"] == "x" * 20_000
