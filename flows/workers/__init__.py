"""Ray: joining it, whether it fits, and all that runs on it."""
