"""Servers that rewards ask: the docs' scorer as a process, and one that answers as a test says."""

import base64
import io
import json
import math
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

from tests.ports import free_port
from tests.waiting import wait_for

SCORER = Path(__file__).parents[2] / "docs/examples/scorer.py"
Answer = Callable[[str, Any], tuple[int, Any]]
"""(path, content or None) -> status and answer."""


def service(url: str, **more: Any) -> dict[str, Any]:
    """The section of a service that is asked quickly."""
    patient = {"url": url, "concurrency": 2, "timeout_s": 60.0, "attempts": 3, "token_variable": None}
    return patient | more


@contextmanager
def scorer() -> Iterator[str]:
    """The url of docs/examples/scorer.py, as it stands there."""
    port = free_port()
    process = subprocess.Popen([sys.executable, str(SCORER), str(port)], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: _answers(url))
        yield url
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    body = json.dumps({"images": [], "prompts": []}).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body)):
            return True
    except OSError:
        return False


@contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """The url of a server that answers by `answer`; None of it closes the connection without a word."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._tell(None)

        def do_POST(self) -> None:
            self._tell(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _tell(self, content: Any) -> None:
            status, told = answer(self.path, content | {"headers": dict(self.headers)} if content else content)
            if told is None:
                self.close_connection = True
                return
            body = told.encode() if isinstance(told, str) else json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def preferring(path: str, content: Any) -> tuple[int, Any]:
    """A language model that likes the brighter of two images, and the first one whatever it shows."""
    if content is None:
        return (200, {"data": []}) if path.endswith("/models") else (404, {})
    first, second = (_brightness(each["image_url"]["url"]) for each in content["messages"][0]["content"][:2])
    ahead = 5 * (first - second) + 0.3
    tokens = [{"token": "1", "logprob": -math.log1p(math.exp(-ahead))}]
    tokens += [{"token": " 2", "logprob": -math.log1p(math.exp(ahead))}]
    return 200, {"choices": [{"logprobs": {"content": [{"top_logprobs": tokens}]}}]}


def _brightness(url: str) -> float:
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("L")
    return sum(image.tobytes()) / (255 * image.width * image.height)


PREFERENCE = {
    "kind": "vlm_preference", "weight": 1.0, "model": "m", "question": "Which shows {prompt}?", "both_orders": False,
    "top_logprobs": 5, "service": service("http://h"),
}  # fmt: skip
"""The section of a reward that compares a prompt's samples."""


def judging(path: str, content: Any) -> tuple[int, Any]:
    """A language model that is surer of yes the longer what it is asked is."""
    if content is None:
        return (200, {"data": []}) if path.endswith("/models") else (404, {})
    words = content["messages"][0]["content"][1]["text"]
    tokens = [{"token": " Yes", "logprob": -1 / len(words)}, {"token": "no", "logprob": -2.0}]
    return 200, {"choices": [{"logprobs": {"content": [{"top_logprobs": tokens}]}}]}
