"""The science of fewstep: pure torch, no orchestration.

Everything here runs in a notebook or on a GPU box that has nothing but torch and diffusers;
`flows` is the only package that knows DVC, Prefect, Ray or MLflow.
"""
