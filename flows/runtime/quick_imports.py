"""Imports without the collector's share of them, a fifth: what they make stays, and it would walk that again and again.

To be imported before what takes long. What does become garbage in cycles is found later than else.
"""

import gc

gc.set_threshold(100_000, 50, 50)
