"""Failures that are of a kind that somebody acts on."""


class AwayError(ValueError):
    """A service outside the project did not answer, however often it was asked: the same may do later as it is."""
