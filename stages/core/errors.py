"""Failures that are of a kind that somebody acts on."""


class AwayError(ValueError):
    """A service outside the project did not answer, however often it was asked: the same may do later as it is."""


class NotFiniteError(ValueError):
    """A loss, a metric or a reward is NaN or infinite: the training diverged, and says where."""
