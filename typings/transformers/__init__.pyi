# To read what transformers says of its types takes half of the type checker's time, 2,600 files, and tells it little.
from typing import Any

def __getattr__(name: str) -> Any: ...
