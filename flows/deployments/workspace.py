"""A scheduled run's own clone: the code and parameters of one commit, the team's data, and the way back to the team.

Made anew for every run, so what is not committed is not run. Beside the clone, and shared by the runs of one worker,
lie DVC's cache, MLflow's store, cells and the work folders from which a run that was ended goes on.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flows.deployments import child
from flows.pipeline import artifacts
from flows.project import cells, graph, parameters, work
from flows.project.nodes import Node
from flows.runtime import addresses, locks, processes
from flows.runtime.environment import HOME
from flows.runtime.errors import Passing
from flows.versioning import command, dvc, remote

SCHEDULED = HOME / "scheduled"
WORK = SCHEDULED / "work"
"""Unfinished work of scheduled runs; each takes it for its own clone's."""
KEPT = 5
"""Clones of runs that failed or were not shared, the newest ones: to look into."""
_FEWSTEP = (sys.executable, "-m", "flows")
_REFUSED = 1
"""Git's exit code where a push was heard and refused."""
_FULL_BYTES = 64 * 2**20
"""Less than this is free: that is why."""


@dataclass(frozen=True)
class Checkout:
    """A clone in a folder of its own."""

    root: Path
    """The worker's project."""
    name: str
    run: str
    """The scheduled flow run's id."""
    say: Callable[[str], None]

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.root / SCHEDULED / "clones" / self.name

    @property
    def branch(self) -> str:
        """Where its results go."""
        return f"runs/{self.name}"

    def make(self, ref: str) -> str:
        """Clone and check out `ref`; the commit. Raises ValueError if origin has no such ref."""
        self._prune()
        source = origin(self.root)
        self.say(f"clone of {addresses.shown(source)} in {self.folder}")
        self._across(["git", "clone", "--quiet", "--no-checkout", source, str(self.folder)], where=self.folder.parent)
        commit = self._resolve(ref)
        self._call(["git", "checkout", "--quiet", "-b", self.branch, commit])
        if not (self.folder / "dvc.yaml").is_file() or not (self.folder / "flows").is_dir():
            raise ValueError(f"{ref}: no fewstep project at this commit (dvc.yaml, flows/); choose another ref")
        self._share_with_worker()
        return commit

    def _prune(self) -> None:
        """Room for this one, and an end to old ones."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        others = sorted(self.folder.parent.iterdir(), key=lambda folder: folder.stat().st_mtime)
        for folder in others[:-KEPT]:
            shutil.rmtree(folder, ignore_errors=True)

    def _resolve(self, ref: str) -> str:
        for name in (f"refs/remotes/origin/{ref}", ref):
            found = self._git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", codes=(0, 1))
            if found:
                return found
        names = self._git("branch", "--remotes", "--format=%(refname:lstrip=3)").split()
        branches = ", ".join(name for name in names if name != "HEAD" and not name.startswith("runs/"))
        raise ValueError(f"ref {ref}: origin has no such branch, tag or commit; its branches: {branches}, runs/...")

    def _share_with_worker(self) -> None:
        """DVC's cache, MLflow's store, cells and unfinished work outlive the clone."""
        (self.folder / ".git/info/exclude").write_text("/mlruns\n", encoding="utf-8")
        for theirs, ours in ((Path("mlruns"), Path("mlruns")), (cells.FOLDER, cells.FOLDER), (work.FOLDER, WORK)):
            (self.root / ours).mkdir(parents=True, exist_ok=True)
            (self.folder / theirs).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / theirs).symlink_to(_seen_from((self.folder / theirs).parent, self.root / ours))
        private = self.root / ".dvc/config.local"  # a remote's address or credentials that are this machine's alone
        if private.is_file():
            shutil.copy(private, self.folder / ".dvc/config.local")
        cache = (self.root / command.ask("cache", "dir", where=self.root)).resolve()
        if cache.is_relative_to(self.root.resolve()):
            cache = _seen_from(self.folder, cache)  # DVC writes down the way from .dvc/
        self._call([*command.DVC, "config", "--local", "cache.dir", str(cache)])

    def compose(self, overrides: Sequence[str], node: Node | None) -> None:
        """Write and commit the parameters; ValueError with Hydra's or a stage's own words where they are refused."""
        self._call([*_FEWSTEP, "compose", *overrides])
        if node:
            graph.find(node.name, parameters.read(self.folder / "params.yaml"))
        self.commit(["params.yaml"], f"Parameters of {self.name}: {' '.join(overrides)}")

    def remote(self) -> str | None:
        """The DVC remote that this project shares its data by, if it has one."""
        return remote.default(self.folder)

    def pull(self) -> None:
        """What the team has made already; what the remote lacks is made anew."""
        self._share("pull", "--quiet", "--run-cache", "--allow-missing")

    def repro(self, overrides: Sequence[str], node: Node | None, *, pull: bool, limit_s: float) -> None:
        """Make the experiment, or one node of it and what it reads; `pull`: what the remote has is not made anew."""
        words = [*_FEWSTEP, "run", *(["--until", node.name] if node else []), *overrides]
        extra = {dvc.PULL: "1"} if pull else {}
        address = artifacts.mlflow()  # of the worker's project: it keeps the clone's runs too
        if address:
            extra[artifacts.MLFLOW] = address
        child.call(words, self.folder, self.run, self.say, limit_s=limit_s, extra=extra)

    def push(self) -> str | None:
        """Data first, so that a branch never names what is not there; the pushed commit, None if nothing is new."""
        self._share("push", "--run-cache")
        self.commit(["dvc.lock", "params.yaml"], f"Results of {self.name}")
        if not self._git("log", "--format=%h", "HEAD", "--not", "--remotes"):
            return None
        self._across(["git", "push", "--quiet", "origin", self.branch])
        return self._git("rev-parse", "HEAD")

    def commit(self, files: Sequence[str], message: str) -> None:
        """Commit `files` where they have changed."""
        there = [file for file in files if (self.folder / file).is_file()]
        self._call(["git", "add", "--force", *there])
        if self._git("diff", "--cached", "--name-only"):
            named = self._git("config", "user.email", codes=(0, 1))
            author = [] if named else ["-c", "user.name=fewstep", "-c", "user.email=fewstep@localhost"]
            self._call(["git", *author, "commit", "--quiet", "--message", message])

    def remove(self) -> None:
        """The clone; what outlives it lies elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _call(self, words: Sequence[str], where: Path | None = None, limit_s: float = 900.0) -> None:
        child.call(words, where or self.folder, self.run, self.say, limit_s=limit_s)

    def _git(self, *words: str, codes: Sequence[int] = (0,)) -> str:
        return processes.ask("git", *words, where=self.folder, codes=codes).out

    def _share(self, *words: str) -> None:
        """DVC's way to the team. It ends with the same code whatever fails, so our own code asks the remote."""
        try:
            self._across([*command.DVC, *words], limit_s=6 * 3600)
        except Passing:
            remote.require(self.folder)
            raise

    def _across(self, words: Sequence[str], where: Path | None = None, limit_s: float = 900.0) -> None:
        """What talks to another machine may fail today and not tomorrow: Passing.

        Not where this disk is full, or git says that it was heard and refused; git's 128 stands for all else, and
        what is wrong for good is found out by few tries.
        """
        try:
            self._call(words, where, limit_s)
        except processes.NoAnswer as error:
            free = shutil.disk_usage(self.folder.parent).free
            if free < _FULL_BYTES:
                raise ValueError(f"{error}; only {free // 2**20} MiB are free in {self.folder.parent}") from None
            if error.code == _REFUSED:
                raise
            raise Passing(str(error)) from None


def _seen_from(folder: Path, place: Path) -> Path:
    """The way there: where a project is copied with its clones, they go on with the copy's things."""
    return Path(os.path.relpath(place.resolve(), folder.resolve()))


def origin(root: Path) -> str:
    """Where the project comes from: git's origin, or itself where it has none."""
    none = 2
    answer = processes.ask("git", "remote", "get-url", "origin", where=root, codes=(0, none))
    return str(root.resolve()) if answer.code == none else answer.out


@contextmanager
def only_one(root: Path, run: str, limit_s: float) -> Iterator[None]:
    """Runs of one worker share unfinished work, so there is one at a time; TimeoutError after `limit_s`.

    What a run that was killed has left alive is ended first.
    """
    (root / SCHEDULED).mkdir(parents=True, exist_ok=True)
    file = root / SCHEDULED / "lock"
    with locks.exclusive(file, limit_s):
        before = file.read_text(encoding="utf-8")
        if before:
            child.sweep(before)
        file.write_text(run, encoding="utf-8")
        try:
            yield
        finally:
            file.write_text("", encoding="utf-8")
