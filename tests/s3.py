"""A real S3 server over HTTP, and a bad network in front of it."""

import http.client
import logging
import os
import re
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

from tests.waiting import PATIENCE_S

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "WHEN_REQUIRED",
}

_ERRORS = {
    "500": (500, "InternalError", "We encountered an internal error."),
    "503": (503, "SlowDown", "Please reduce your request rate."),
    "expired": (400, "ExpiredToken", "The provided token has expired."),
}
_OF_ONE_HOP = ("connection", "transfer-encoding", "date", "server")


@contextmanager
def server(bucket: str) -> Iterator[str]:
    """The endpoint of moto's server with an empty bucket; CREDENTIALS are in the environment while it runs."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # not a line for every request
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    endpoint = "http://{}:{}".format(*moto.get_host_and_port())
    with mock.patch.dict(os.environ, CREDENTIALS):
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
        try:
            yield endpoint
        finally:  # the next server of this process would have the same objects
            urllib.request.urlopen(urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")).close()
            moto.stop()


class Network:
    """Passes requests on, but for those that `fault` is to strike.

    Kinds: slow, 500, 503, reset (no answer), cut (an answer that ends half-way), half (a whole answer with half an
    object in it), expired (the token).
    """

    def __init__(self, behind: str) -> None:
        self.behind = behind.removeprefix("http://")
        self.requests: list[str] = []
        self.struck = 0
        self._kind, self._times, self._where = "", 0, ""
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                outer._handle(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_one

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # a client that hangs up
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def fault(self, kind: str, times: int = 1, where: str = "") -> None:
        """Strike the next `times` requests whose "METHOD /path" matches `where`."""
        self._kind, self._times, self._where, self.struck = kind, times, where, 0

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _strikes(self, request: str) -> str | None:
        with self._lock:
            self.requests.append(request)
            if self._times < 1 or not re.search(self._where, request):
                return None
            self._times -= 1
            self.struck += 1
            return self._kind

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = self._body(handler)
        kind = self._strikes(f"{handler.command} {handler.path}")
        match kind:
            case "reset":
                handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                handler.connection.close()
                handler.close_connection = True
                return
            case "500" | "503" | "expired":
                status, code, words = _ERRORS[kind]
                text = f"<Error><Code>{code}</Code><Message>{words}</Message></Error>"
                self._answer(handler, status, {}, text.encode() if handler.command != "HEAD" else b"")
                return
            case "slow":
                time.sleep(1.5)
        behind = http.client.HTTPConnection(self.behind, timeout=PATIENCE_S)
        headers = {name: value for name, value in handler.headers.items() if name.lower() != "transfer-encoding"}
        behind.request(handler.command, handler.path, body, headers | {"Host": handler.headers["Host"]})
        reply = behind.getresponse()
        content = reply.read()
        kept = {name: value for name, value in reply.getheaders() if name.lower() not in _OF_ONE_HOP}
        if kind == "half":
            content = content[: len(content) // 2]
            kept.pop("Content-Length", None)
        self._answer(handler, reply.status, kept, content, cut=kind == "cut")
        behind.close()

    @staticmethod
    def _body(handler: BaseHTTPRequestHandler) -> bytes:
        if "chunked" in handler.headers.get("Transfer-Encoding", ""):
            whole = b""
            while size := int(handler.rfile.readline(), 16):
                whole += handler.rfile.read(size)
                handler.rfile.readline()
            handler.rfile.readline()
            return whole
        return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))

    @staticmethod
    def _answer(
        handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False
    ) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            if name.lower() != "content-length":
                handler.send_header(name, value)
        length = headers.get("Content-Length") if handler.command == "HEAD" else None
        handler.send_header("Content-Length", length or str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
