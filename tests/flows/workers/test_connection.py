"""The way to Ray."""

import socket

import pytest

from flows.runtime.errors import Passing
from flows.workers.connection import connect


def test_no_ray_at_an_address_is_said_at_once():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    with pytest.raises(Passing, match=rf"127\.0\.0\.1:{port}: no Ray answers there"):
        connect(f"127.0.0.1:{port}")
