"""MLflow: runs, scores and the registry of models, and the record that each artefact is made with."""
