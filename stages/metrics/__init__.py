"""Metrics: pure functions of samples and features. Each names what it is and what it is not."""
