"""What a unit writes elsewhere is sent on once, line by line."""

from types import SimpleNamespace

from flows.workers import collector


def test_whole_lines_of_every_file_are_sent_once(tmp_path):
    far, near = tmp_path / "driver", tmp_path / "worker"
    far.mkdir()
    near.mkdir()
    office = SimpleNamespace(append=SimpleNamespace(remote=collector.Office("n").append))
    courier = collector._Courier(office, near, far / "all.jsonl")
    (near / "all.jsonl").write_text('{"step": 1}\n{"step"')
    (near / "all.system.jsonl").write_text('{"cpu": 1}\n')
    courier._send()
    assert (far / "all.jsonl").read_text() == '{"step": 1}\n'
    with (near / "all.jsonl").open("a") as stream:
        stream.write(": 2}\n")
    courier._send()
    courier._send()
    assert (far / "all.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
    assert (far / "all.system.jsonl").read_text() == '{"cpu": 1}\n'
