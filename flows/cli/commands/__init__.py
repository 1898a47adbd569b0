"""One module a command: `arguments(parser)` declares, `main(parsed)` runs and returns the exit code."""
