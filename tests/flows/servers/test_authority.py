"""What clients of our own Prefect server read before they ask it."""

import ssl

from flows.servers import authority


def test_it_is_a_single_one_unless_a_person_names_theirs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_SSL_CERT_FILE", raising=False)
    told = authority.only_one()
    assert told.keys() == {"PREFECT_API_SSL_CERT_FILE"}
    monkeypatch.chdir("/")  # whoever is told may be in another folder
    assert len(ssl.create_default_context(cafile=told["PREFECT_API_SSL_CERT_FILE"]).get_ca_certs()) == 1
    monkeypatch.setenv("PREFECT_API_SSL_CERT_FILE", "theirs.pem")
    assert authority.only_one() == {}
