"""DVC's default remote, asked by ourselves."""

import pytest

from flows.versioning import remote
from stages.io.storage import StorageError, TransientStorageError
from tests import s3

pytestmark = pytest.mark.filterwarnings("ignore")  # of moto's server, which runs in this process


@pytest.mark.parametrize(
    ("url", "fault", "raised"),
    [
        ("s3://team/dvc", "", None),  # nothing was ever pushed
        ("s3://nobodys/dvc", "", StorageError),
        ("s3://team/dvc", "expired", StorageError),
        ("s3://team/dvc", "away", TransientStorageError),
        ("ssh://nowhere/dvc", "", StorageError),  # a package that is not there
    ],
)
def test_a_remote_that_is_away_is_not_one_that_refuses_us(tmp_path, monkeypatch, url, fault, raised):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # of botocore's; s3fs tries again anyhow
    with s3.server("team") as endpoint:
        network = s3.Network(endpoint)
        network.fault(fault, 10**6 if fault else 0)
        if fault == "away":
            network.close()
        (tmp_path / ".dvc").mkdir()
        settings = f"[core]\n remote = team\n no_scm = true\n['remote \"team\"']\n url = {url}\n"
        settings += f" endpointurl = {network.endpoint}\n" if url.startswith("s3") else ""
        (tmp_path / ".dvc/config").write_text(settings)
        if raised is None:
            remote.require(tmp_path)
        else:
            with pytest.raises(StorageError, match="DVC's remote") as refusal:
                remote.require(tmp_path)
            assert type(refusal.value) is raised
        if fault != "away":
            network.close()
