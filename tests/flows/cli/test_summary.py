"""Where a run says to look."""

from flows.cli import summary
from flows.pipeline import results


def test_only_places_that_there_are_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@team:5000")
    mlflow, prefect = summary._places()
    assert mlflow.split()[0] == "MLflow"
    assert "team:5000" in mlflow
    assert "secret" not in mlflow
    assert prefect == "Prefect   `fewstep up`, then http://127.0.0.1:4200 (kept in .fewstep/prefect/)"
    results.METRICS.parent.mkdir(parents=True)
    results.METRICS.write_text("{}")
    assert next(summary._places()) == "report    data/evaluate/report.html"
