"""DVC, and nothing else knows it: what is out of date, running a node, digests, its cache and its garbage."""
