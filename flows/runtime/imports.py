"""Modules imported one after another, each answered by a line of JSON: its name, and what was wrong or null.

python -m flows.runtime.imports <module>...
"""

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from subprocess import Popen, TimeoutExpired

from flows.runtime import processes


def main(modules: Sequence[str]) -> None:
    """Try each."""
    for name in modules:
        try:
            importlib.import_module(name)
            fault = None
        except Exception as error:  # noqa: BLE001 (whatever a module's code raises is the answer)
            fault = f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"
        print(json.dumps([name, fault]), flush=True)  # noqa: T201


def start(modules: Sequence[str]) -> Popen[str]:
    """Begin to try them in a process of their own; `faults` waits for it."""
    return processes.launch([sys.executable, "-W", "ignore", "-m", "flows.runtime.imports", *modules])


def faults(process: Popen[str], modules: Sequence[str], limit_s: float) -> Mapping[str, str | None]:
    """Module -> why it cannot be imported, None if it can; one that ends or stops the process has that for a fault."""
    with process:
        try:
            said, _ = process.communicate(timeout=limit_s)
            end = f"ended the process (code {process.returncode})"
        except TimeoutExpired as error:
            processes.end(process, patience_s=0.5)
            said = (error.stdout or b"").decode(errors="replace")
            end = f"did not come to an end within {limit_s:g} s"
    answers = dict(json.loads(line) for line in said.splitlines() if line.startswith('["'))
    missing = [name for name in modules if name not in answers]
    return answers | {name: end if name == missing[0] else "was not tried" for name in missing}


if __name__ == "__main__":
    main(sys.argv[1:])
