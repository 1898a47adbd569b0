"""A Ray worker whose libraries are imported already: forked from one process beside the head, which imports them once.

Ray starts `command()` where it would start Python. That asks the process which `begun` keeps, hands it arguments,
environment, folder and standard files, and lives as long as the worker that was forked; where nobody listens it becomes
the Python that Ray would have started.

Libraries alone: our own code may change while a head stays, and each worker imports it itself. Where there is a GPU
nothing is forked, since a process that has looked for CUDA may not be.
"""

import gc
import importlib
import json
import os
import runpy
import shlex
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LIBRARIES = (
    "torch",
    "prefect.task_engine",
    "safetensors.torch",
    # What stages.models imports as soon as it builds or reads a network.
    "diffusers.models.transformers.transformer_sd3",
    "transformers.models.clip.modeling_clip",
)
"""What takes a worker seconds to import. Not Ray, which reads the environment of its worker when it is imported."""
_GPUS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Of NVIDIA's driver, of AMD's, and of either under Windows."""
_PLACE = "FEWSTEP_WORKER_FORKS"
"""Of the environment that workers inherit: the socket on which to ask."""
_FORKED = b"+"
_LOOK_S = 0.01


def command() -> str:
    """What Ray is to start instead of `python`, for a shell."""
    return shlex.join([sys.executable, "-I", "-S", __file__])


def is_possible() -> bool:
    """Whether a process that has these libraries may be forked here."""
    return sys.platform == "linux" and not any(map(os.path.exists, _GPUS))


def import_all(names: Sequence[str] = LIBRARIES) -> None:
    """Without the collector, which would walk all that is imported again and again, this takes a fifth less."""
    gc.disable()
    for name in names:
        importlib.import_module(name)
    gc.enable()
    gc.freeze()


@contextmanager
def begun(log: Path, libraries: Sequence[str] = LIBRARIES) -> Iterator[None]:
    """Until the context ends, processes that inherit the environment from here find one to be forked from."""
    if not is_possible():
        yield
        return
    from flows.runtime import processes

    folder = Path(tempfile.mkdtemp(prefix="fewstep-"))  # a socket's path may have 107 bytes, a project's is longer
    place = folder / "socket"
    one = {"OMP_NUM_THREADS": "1"}  # read once, when torch is imported; a stage says how many it takes
    process = processes.launch([sys.executable, __file__, "--serve", str(place), *libraries], log=log, environment=one)
    try:
        while not place.exists() and process.poll() is None:
            time.sleep(_LOOK_S)
        os.environ[_PLACE] = str(place)
        yield
    finally:
        os.environ.pop(_PLACE, None)
        processes.end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _serve(place: str, libraries: Sequence[str]) -> None:
    """Fork whoever asks. Returns in a fork, once its worker has ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(f"{place}.part")
        door.listen(128)  # who comes before all is imported waits
        os.rename(f"{place}.part", place)
        import_all(libraries)
        while True:
            line, _ = door.accept()
            if os.fork() == 0:
                break
            line.close()
    _become(line)


def _become(line: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, files, _, _ = socket.recv_fds(line, 4, 3)
    with line.makefile("rb") as stream:
        words, environment, folder = json.loads(stream.read(*struct.unpack("!I", size)))
    for place, file in enumerate(files):
        os.dup2(file, place)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    line.sendall(_FORKED)
    threading.Thread(target=_end_with, args=(line,), daemon=True).start()
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def _end_with(line: socket.socket) -> None:
    """With the process that Ray started and may end."""
    line.recv(1)
    os.kill(os.getpid(), signal.SIGTERM)


def _ask(words: list[str]) -> None:
    """Be forked, and wait for the end of that; become Python where it cannot be."""
    told = json.dumps([words, dict(os.environ), os.getcwd()]).encode()
    with socket.socket(socket.AF_UNIX) as line:
        try:
            line.connect(os.environ.get(_PLACE, ""))
            socket.send_fds(line, [struct.pack("!I", len(told))], [0, 1, 2])
            line.sendall(told)
            forked = line.recv(1) == _FORKED
        except OSError:
            forked = False
        if not forked:
            os.execv(sys.executable, [sys.executable, *words])  # noqa: S606 (what Ray would have started)
        line.recv(1)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        _serve(sys.argv[2], sys.argv[3:])
    else:
        _ask(sys.argv[1:])
