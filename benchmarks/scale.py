"""What a million and a hundred million pairs cost, and a measurement of every unit cost that the answer uses.

    python benchmarks/scale.py --quick                 # about a minute and a half
    python benchmarks/scale.py --json scale.json       # about seven minutes; wants 3 GB of disk and an idle machine
    python benchmarks/scale.py --only shards noise

Prints Markdown, and JSON where --json says. Prices and the seconds of a GPU are parameters, not measurements.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import scale_tables  # noqa: E402
from stages.core import hashing  # noqa: E402
from stages.core.rng import normal_at  # noqa: E402
from stages.io import artefacts, shards  # noqa: E402
from stages.io.pairs import Layout, Origin  # noqa: E402

SHAPES = {"4x64x64": (4, 64, 64), "16x64x64": (16, 64, 64)}
PAIRS = (10**6, 10**8)
FP16, INDEX = 2, 4
"""Bytes of a number, and of a prompt's index."""
Figures = dict[str, Any]


def spread(seconds: Sequence[float]) -> Figures:
    """Median and range of repeated timings."""
    return {"median_s": statistics.median(seconds), "low_s": min(seconds), "high_s": max(seconds), "n": len(seconds)}


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turn(calls: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, Figures]:
    """Timings of calls, one after the other in each round, so that a slow minute hits all; the first is dropped."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(repeats + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(calls[name]())
    return {name: spread(each[1:]) for name, each in found.items()}


def _fsync(file: Path) -> None:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def _evict(file: Path) -> None:
    """Have the next read come from the disk. The pages must be clean, so the file must have been synced."""
    with file.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def shard_speed(folder: Path, *, quick: bool) -> Figures:
    """Writing and reading a shard of pairs, beside the raw disk and a map that is copied, the same bytes."""
    count, repeats = (1024, 3) if quick else (4096, 9)
    shape = SHAPES["4x64x64"]
    index = torch.arange(count, dtype=torch.int32)
    pair = {"x0": torch.randn(count, *shape).half(), "noise": torch.randn(count, *shape).half(), "prompt_index": index}
    file = folder / "shard.safetensors"
    shards.write(file, pair)
    raw = file.read_bytes()
    ways = {
        "raw sequential write": lambda target: _write_raw(target, raw),
        "shards.write": lambda target: shards.write(target, pair),
    }
    calls = {name: (lambda name=name, how=how: _written(folder / f"{name}.out", how)) for name, how in ways.items()}
    wrote = in_turn(calls, repeats)
    _fsync(file)
    buffer = bytearray(len(raw))
    reads = {
        "raw sequential read": lambda: _read_raw(file, buffer),
        "mapped and copied": lambda: {k: v.clone() for k, v in load_file(file).items()},
        "Shard.read": lambda: _shard(file),
    }
    got = in_turn({name: (lambda how=how: _read(file, how)) for name, how in reads.items()}, repeats)
    for found, base in ((wrote, "raw sequential write"), (got, "raw sequential read")):
        for each in found.values():
            each["mb_s"] = len(raw) / 1e6 / each["median_s"]
            each["of_raw"] = found[base]["median_s"] / each["median_s"]
    return {"bytes": len(raw), "pairs": count, "write": wrote, "read": got}


def _written(target: Path, how: Callable[[Path], Any]) -> float:
    """Seconds until `how(target)` is on the disk."""
    target.unlink(missing_ok=True)
    os.sync()  # nobody pays for what another left in the cache
    start = time.perf_counter()
    how(target)
    _fsync(target)
    return time.perf_counter() - start


def _write_raw(target: Path, content: bytes) -> None:
    with target.open("wb", buffering=0) as stream:
        left = memoryview(content)
        while left:
            left = left[stream.write(left[: 2**23]) :]


def _read(file: Path, how: Callable[[], Any]) -> float:
    _evict(file)
    return timed(how)


def _read_raw(file: Path, buffer: bytearray) -> None:
    with file.open("rb", buffering=0) as stream:
        left = memoryview(buffer)
        while left:
            left = left[stream.readinto(left) :]


def _shard(file: Path) -> Mapping[str, torch.Tensor]:
    return shards.Shard(file.name, file).read()


def noise_speed(folder: Path, *, quick: bool) -> Figures:
    """Making noise again from (seed, stream, index) against reading it, float16 on disk, a core and all cores."""
    count, shape = (256 if quick else 1024), SHAPES["4x64x64"]
    stored = {"noise": normal_at(0, "trajectories", 0, count, shape).half()}
    file = folder / "noise.safetensors"
    shards.write(file, stored)
    _fsync(file)
    cores = torch.get_num_threads()

    def again(threads: int) -> Callable[[], float]:
        def once() -> float:
            torch.set_num_threads(threads)
            try:
                return timed(lambda: normal_at(0, "trajectories", 0, count, shape).half())
            finally:
                torch.set_num_threads(cores)

        return once

    def disk() -> float:
        _evict(file)
        return timed(lambda: _shard(file))

    kinds = {"made again, 1 core": again(1), f"made again, {cores} cores": again(cores), "read from disk": disk}
    found = in_turn(kinds, 3 if quick else 7)
    for each in found.values():
        each["pairs_s"] = count / each["median_s"]
        each["numbers_s"] = each["pairs_s"] * stored["noise"][0].numel()
    same = torch.equal(_shard(file)["noise"], stored["noise"])
    assert same, "what is made again must be what was stored"
    return {"pairs": count, "numbers_a_pair": stored["noise"][0].numel(), "found": found}


def walk_cost(folder: Path, *, quick: bool) -> Figures:
    """Memory and pace of a training's reader over one epoch, with all pairs held and with a buffer of them."""
    count, a_shard = (4096 if quick else 32_768), 512
    layouts = {
        "stored": Layout("float16", None),
        "made again": Layout("float16", Origin(0, "trajectories")),
    }
    found = []
    for name, layout in layouts.items():
        (folder / name).mkdir()
        for number in range(count // a_shard):
            noise = normal_at(0, "trajectories", number * a_shard, a_shard, SHAPES["4x64x64"])
            file = folder / name / shards.name(number)
            layout.write(file, noise=noise, x0=noise.flip(0), prompt_index=torch.arange(a_shard))
            _fsync(file)
        shards.write_prompts(folder / name, [str(i) for i in range(a_shard)])
        layout.write_index(folder / name, [a_shard] * (count // a_shard))
        for buffer in (count, count // 8):
            for file in (folder / name).glob("*.safetensors"):
                _evict(file)
            call = [sys.executable, str(Path(__file__).with_name("scale_walk.py")), str(folder / name), str(buffer)]
            done = subprocess.run(call, capture_output=True, text=True, check=True)
            found.append({"noise": name, "buffer": buffer, **json.loads(done.stdout)})
        shutil.rmtree(folder / name)
    return {"pairs": count, "bytes_a_pair": 2 * 4 * noise[0].numel(), "found": found}


def manifest_cost(folder: Path, *, quick: bool) -> Figures:
    """Bytes of a manifest a shard, seconds of commit and verify a small file, and the rate of sha256."""
    sizes = {}
    for count in (100, 1000) if quick else (100, 1000, 10_000):
        build, out = folder / "build", folder / f"artefact{count}"
        build.mkdir()
        for number in range(count):
            (build / shards.name(number)).write_bytes(number.to_bytes(8, "little"))
        committed = timed(lambda build=build, out=out: artefacts.commit(build, out, stage="scale"))
        verified = timed(lambda out=out: artefacts.verify(out))
        size = (out / "manifest.json").stat().st_size
        sizes[count] = {"bytes": size, "bytes_a_file": size / count, "commit_s": committed, "verify_s": verified}
    file = folder / "large"
    file.write_bytes(os.urandom(2**20) * 256)
    rate = 256 * 2**20 / statistics.median(timed(lambda: hashing.sha256_of_file(file)) for _ in range(3))
    return {"files": sizes, "sha256_mb_s": rate / 1e6}


def task_cost(folder: Path, *, quick: bool) -> Figures:
    """Seconds of a task that does nothing: Prefect's through Ray against Ray's own, and the first of each."""
    del quick
    for part in ("params", "dvc.yaml", "stages", "flows"):
        (folder / part).symlink_to(ROOT / part)
    script = Path(__file__).with_name("scale_tasks.py")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "RAY_"))}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def dvc_cost(folder: Path, *, quick: bool) -> Figures:
    """Seconds of DVC over the number of objects: a folder of files, and one manifest that names them."""
    found: dict[str, dict[int, Figures]] = {"a folder of files": {}, "one manifest": {}}
    for count in (100, 1000) if quick else (1000, 10_000, 100_000):
        for kind, rows in found.items():
            project = folder / "project"
            (project / "remote").mkdir(parents=True)
            (project / "out").mkdir()
            rows[count] = _dvc(project, count, as_files=kind == "a folder of files")
            shutil.rmtree(project)
    return found


def _dvc(project: Path, count: int, *, as_files: bool) -> Figures:
    def run(*words: str) -> float:
        call = [sys.executable, "-m", "dvc", *words, "--quiet"]
        return timed(lambda: subprocess.run(call, cwd=project, check=True, capture_output=True, text=True))

    out = project / "out"
    if as_files:
        for number in range(count):
            (out / shards.name(number)).write_bytes(number.to_bytes(8, "little"))
    else:
        entries = [{"path": shards.name(n), "bytes": 2**28, "sha256": f"{n:064x}"} for n in range(count)]
        artefacts.write_json(out / "manifest.json", {"schema": 1, "files": entries, "objects": "s3://bucket/prefix"})
    run("init", "--no-scm")
    run("remote", "add", "--default", "local", "remote")
    (project / "dvc.yaml").write_text("stages:\n  make:\n    cmd: 'true'\n    outs: [{out: {persist: true}}]\n")
    found = {"commit_s": run("repro")}
    for name, words in {"status_s": ["status"], "repro_again_s": ["repro"], "push_s": ["push"]}.items():
        found[name] = run(*words)
    found["push_again_s"] = run("push")
    return found


def plan(measured: Figures, settings: argparse.Namespace) -> list[Figures]:
    """Bytes, objects, tasks, hours and money of each size, with and without storing the noise."""
    rows = []
    for pairs in PAIRS:
        for name, shape in SHAPES.items():
            for stored in (True, False):
                latent = FP16 * shape[0] * shape[1] * shape[2]
                size = pairs * (latent * (2 if stored else 1) + INDEX)
                objects = -(-size // settings.shard_bytes)
                entry = max(each["bytes_a_file"] for each in measured["manifest"]["files"].values())
                made = measured["noise"]["found"]["made again, 1 core"]["numbers_s"]
                row = {"pairs": pairs, "latent": name, "noise": "stored" if stored else "made again", "bytes": size}
                row |= {"objects": objects, "pairs_a_task": pairs / objects, "manifest_bytes": objects * entry}
                row["task_overhead_s"] = objects * measured["tasks"]["prefect_through_ray"]["a_task_s"]
                row["write_s"] = size / 1e6 / measured["shards"]["write"]["shards.write"]["mb_s"]
                row["sha256_s"] = size / 1e6 / measured["manifest"]["sha256_mb_s"]
                row["noise_core_s"] = 0 if stored else pairs * (latent / FP16) / made
                row["sampling_gpu_s"] = pairs * settings.gpu_seconds
                row["storage_a_month"] = size / 1e9 * settings.gb_month
                row["requests"] = objects * (settings.put_1000 + settings.get_1000) / 1000
                row["sampling"] = row["sampling_gpu_s"] / 3600 * settings.gpu_hour
                rows.append(row)
    return rows


MEASURES = {
    "shards": shard_speed,
    "noise": noise_speed,
    "walk": walk_cost,
    "manifest": manifest_cost,
    "tasks": task_cost,
    "dvc": dvc_cost,
}


def main() -> None:
    """Measure, compute, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=list(MEASURES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--where", type=Path, help="a folder on the disk to measure")
    parser.add_argument("--shard-bytes", type=int, default=2**28)
    parser.add_argument("--gb-month", type=float, default=0.023, help="assumed: USD a GB and month of object storage")
    parser.add_argument("--put-1000", type=float, default=0.005, help="assumed: USD a thousand PUTs")
    parser.add_argument("--get-1000", type=float, default=0.0004, help="assumed: USD a thousand GETs")
    parser.add_argument("--gpu-hour", type=float, default=3.0, help="assumed: USD an hour of one GPU")
    parser.add_argument("--gpu-seconds", type=float, default=1.0, help="assumed: GPU seconds a pair of the teacher")
    settings = parser.parse_args()
    measured: Figures = {"machine": f"{os.cpu_count()} cores, {platform.platform()}", "seconds": {}}
    for name in settings.only:
        folder = Path(tempfile.mkdtemp(prefix="scale-", dir=settings.where))
        try:
            start = time.perf_counter()
            measured[name] = MEASURES[name](folder, quick=settings.quick)
            measured["seconds"][name] = time.perf_counter() - start
            print(scale_tables.TABLES[name](measured[name]), flush=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    if {"shards", "noise", "manifest", "tasks"} <= measured.keys():
        measured["plan"] = plan(measured, settings)
        print(scale_tables.plan(measured["plan"]))
    print("seconds:", {name: round(each, 1) for name, each in measured["seconds"].items()})
    if settings.json:
        measured["settings"] = {name: str(value) for name, value in vars(settings).items()}
        settings.json.write_text(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
