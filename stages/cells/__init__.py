"""Cells: a model sampled in one way, measured on a dataset by a verifier; its key says what decides it."""
