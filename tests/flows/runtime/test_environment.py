"""What every process of a run agrees on."""

import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from flows.runtime import environment
from tests.waiting import PATIENCE_S

ALL = "127.0.0.1,localhost,::1"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, (ALL, ALL)),
        ({"no_proxy": "corp, 10.0.0.0/8"}, (f"corp,10.0.0.0/8,{ALL}", f"corp,10.0.0.0/8,{ALL}")),
        ({"NO_PROXY": "localhost"}, ("localhost,127.0.0.1,::1", "localhost,127.0.0.1,::1")),
        ({"no_proxy": "a", "NO_PROXY": "b"}, (f"a,{ALL}", f"b,{ALL}")),
        ({"no_proxy": "*"}, ("*", "*")),
    ],
)
def test_servers_of_this_machine_are_spared_from_proxies_and_nothing_else_changes(before, after):
    spared = environment._spared(before)
    assert (spared["no_proxy"], spared["NO_PROXY"]) == after
    assert environment._spared(spared) == spared


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_a_server_on_loopback_is_reached_past_a_dead_proxy(proxy, monkeypatch):
    class Here(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nothing listens there
    with HTTPServer(("127.0.0.1", 0), Here) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        addresses = [f"http://{host}:{server.server_port}" for host in ("127.0.0.1", "localhost")]
        if "http" in proxy.lower():  # urllib knows no proxy for all
            with pytest.raises(urllib.error.URLError, match="refused"):
                _get(addresses[0])
        for name, value in environment._spared({}).items():
            monkeypatch.setenv(name, value)
        assert [_get(address) for address in addresses] == [200, 200]
        server.shutdown()


def _get(address):
    with urllib.request.build_opener().open(address, timeout=PATIENCE_S) as reply:
        return reply.status
