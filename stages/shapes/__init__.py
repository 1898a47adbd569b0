"""A text-to-image task in colour: scenes of simple shapes, prompts in plain English, and an exact verifier.

Six tasks in the way of GenEval (Ghosh et al. 2023, arXiv:2310.11513), under its names.
"""
