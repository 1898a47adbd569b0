"""Python modules run as processes that have their imports behind them: forked from one that imports them once.

Only a process that stays, and runs the same modules again and again, gains from it; elsewhere `launch` starts Python.
"""

import gc
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import Popen, TimeoutExpired

from flows.runtime import processes
from flows.runtime.processes import Answer, Environment, NoAnswer

_begun = False


class Forked:
    """A process like subprocess.Popen's, as far as it is needed here."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        assert process.pid is not None
        self.pid: int = process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, None while it runs; negative where a signal ended it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended. Raises TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutExpired(str(self.pid), timeout or 0.0)
        return self._process.exitcode

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def end(self) -> None:
        """End it, if it runs, and all that it started."""
        found = processes.find(self.pid) if self.poll() is None else None
        if found:
            processes.end(found)
            self._process.join()


Process = Popen[str] | Forked


def end(process: Process) -> None:
    """End what `launch` started, and all that it started."""
    if isinstance(process, Forked):
        process.end()
    else:
        processes.end(process)


def begun() -> bool:
    """Whether modules wait to be run."""
    return _begun


def begin(modules: Sequence[str]) -> None:
    """Have `modules` imported by a process that waits beside this one, and ends with it."""
    global _begun  # noqa: PLW0603 (like the process, of which Python keeps one)
    multiprocessing.set_forkserver_preload(list(modules))
    forkserver.ensure_running()
    _begun = True


def launch(module: str, arguments: Sequence[str], log: Path, environment: Environment = processes.NOTHING) -> Process:
    """`python -m module arguments...`; what it says goes to the file `log`, which is begun anew. It ends with us."""
    if not _begun:
        return processes.launch([sys.executable, "-m", module, *arguments], log=log, environment=environment)
    log.parent.mkdir(parents=True, exist_ok=True)
    return _fork(module, arguments, (log, log), environment)


def ask(module: str, arguments: Sequence[str], limit_s: float) -> Answer:
    """What a module that was begun with says to a quick question, as processes.ask has it."""
    name = " ".join([module, *arguments[:2]])
    with tempfile.TemporaryDirectory(prefix="fewstep-") as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        process = _fork(module, arguments, (out, err), processes.NOTHING)
        try:
            code = process.wait(limit_s)
        except TimeoutExpired:
            raise NoAnswer(f"{name}: no answer within {limit_s:g} s") from None
        finally:
            process.end()
        said, errors = (file.read_text(encoding="utf-8", errors="replace").strip() for file in (out, err))
    if code:
        words = processes.complaint(errors or said) or "no message"
        raise NoAnswer(f"{name}: {words} (exit code {code})", code)
    return Answer(code, said)


def _fork(module: str, arguments: Sequence[str], says: tuple[Path, Path], environment: Environment) -> Forked:
    seen = {name: value for name, value in (os.environ | environment).items() if value is not None}
    told = (module, list(arguments), [str(file) for file in says], seen, os.getcwd())
    process = multiprocessing.get_context("forkserver").Process(target=_become, args=told, daemon=True)
    process.start()
    return Forked(process)


def _become(module: str, arguments: list[str], says: list[str], environment: dict[str, str], folder: str) -> None:
    gc.freeze()  # what was imported before the fork stays: not to be walked, nor copied for being walked
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, file in zip((1, 2), says, strict=True):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if descriptor == 1 else 0)
        os.dup2(os.open(file, flags, 0o666), descriptor)
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()


def _end_with(parent: BaseProcess | None) -> None:
    """Whoever asked for the fork, not the process that it was forked from: that one may outlive it."""
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
