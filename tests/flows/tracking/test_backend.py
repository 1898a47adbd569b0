"""MLflow's store: who reads makes nothing, and a server that is away is told from one that has nothing."""

import json

import pytest
import requests

from flows.lineage.history import History
from flows.project.nodes import Node
from flows.runtime.errors import Passing
from flows.tracking import backend, outbox
from tests.flows.clone import give_databases

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / ".fewstep").mkdir()
    return tmp_path


def test_who_reads_where_nothing_was_tracked_makes_nothing(home):
    assert backend.look("fewstep") is None
    assert History().of_digest("abcdef") == []
    assert [path.name for path in home.iterdir()] == [".fewstep"]


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.integration
def test_who_reads_leaves_the_database_and_the_waiting_notes_as_they_are(home, made):
    give_databases(home)
    if made:
        store = backend.connect("fewstep")
        store.client.create_run(store.experiment)
    outbox.FOLDER.mkdir(parents=True)
    note = outbox.FOLDER / f"{'a' * 32}.json"
    note.write_text(json.dumps({"node": "teacher"}))
    before = backend.FILE.read_bytes()
    history = History()
    assert (history.store is not None) is made
    assert history.of_run("a" * 32) is None
    assert history.versions(Node("teacher")) == []
    assert backend.FILE.read_bytes() == before
    assert note.exists()


def raised_by(cause, **facts):
    """MLflow's own error, as its client raises it while it handles that of the HTTP library."""
    from mlflow.exceptions import MlflowException

    try:
        raise cause
    except type(cause):
        try:
            raise MlflowException("API request failed with exception", **facts)
        except MlflowException as error:
            return error


@pytest.mark.parametrize(
    ("cause", "code", "kind"),
    [
        (requests.ConnectionError("refused"), None, Passing),
        (requests.exceptions.RetryError("too many 503"), None, Passing),
        (KeyError("x"), 503, Passing),
        (KeyError("x"), 401, ValueError),
        (KeyError("x"), 404, None),
        (KeyError("x"), 500, None),
    ],
)
@pytest.mark.integration
def test_a_server_that_is_away_may_come_back(monkeypatch, cause, code, kind):
    from mlflow.exceptions import MlflowException, get_error_code

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    error = raised_by(cause, **({"error_code": get_error_code(code)} if code else {}))
    with pytest.raises(kind or MlflowException) as refusal, backend.speaking():
        raise error
    assert "secret" not in str(refusal.value)
    assert isinstance(refusal.value, MlflowException) is (kind is None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(MlflowException), backend.speaking():  # a database of our own does not go away
        raise error


def test_a_search_is_read_to_its_end():
    class Page(list):
        token = None

    def search(words, max_results, page_token):
        first = int(page_token or 0)
        page = Page(range(first, min(first + max_results, 2500)))
        page.token = str(first + max_results) if first + max_results < 2500 else None
        return page

    assert list(backend.every(search, "x")) == list(range(2500))
