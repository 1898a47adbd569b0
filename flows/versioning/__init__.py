"""DVC, and nothing else knows it: what is out of date, running a node, its cache; and what nobody needs any more."""
