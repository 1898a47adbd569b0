"""What holds for every test."""

import os

# Tests are many small computations beside each other, on few cores: with more threads, most of the processors' time
# goes to threads that spin, waiting for one that another test keeps from running. Before torch is first imported.
os.environ["OMP_NUM_THREADS"] = "1"
