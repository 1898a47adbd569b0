"""The servers of this machine: their ports."""

import socket

import pytest

from flows.servers import local


def test_a_taken_port_is_named():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port {port} is taken.*--prefect-port"):
            local._port("prefect", port)
        assert local._port("prefect", None) != port
