"""The orchestration: the only code that knows Prefect, Ray, MLflow and DVC."""
