"""The one training loop, and what a method has to say for it to run."""
