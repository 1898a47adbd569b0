"""Parameters, artefacts and storage: how results get on and off the disk."""
