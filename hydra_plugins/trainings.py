"""What params/ needs beside itself, where Hydra looks for it: for `dvc exp run -S`, which composes by itself."""

import importlib
import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[1])
sys.path.insert(0, ROOT)  # the stages/ beside this folder: another may be installed
try:
    importlib.import_module("stages.io.overrides")
finally:
    sys.path.remove(ROOT)
