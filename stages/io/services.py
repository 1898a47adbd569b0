"""Services over HTTP that parameters name: JSON there and back, asked again where they are busy or away."""

import base64
import io
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from stages.core.config import config
from stages.core.errors import AwayError
from stages.core.messages import brief, shown
from stages.core.ranges import Positive

if TYPE_CHECKING:
    from PIL.Image import Image

_BUSY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 30.0


def _address(url: str) -> str:
    if not re.fullmatch(r"https?://[^\s@/]+(/\S*)?", url):
        raise ValueError(f"{brief(url)}: should be http://host:port/... or https://..., without a password in it")
    return url.rstrip("/")


@config
class Service:
    """Where it is, and how patiently it is asked. None of this but `url` changes an answer."""

    url: Annotated[str, AfterValidator(_address)]
    concurrency: Annotated[int, Field(ge=1, le=256)]
    """Requests that are on their way at once, of each process that asks."""
    timeout_s: Positive
    """Of one request."""
    attempts: Annotated[int, Field(ge=1, le=100)]
    """Tries of one request, each after twice the wait of the last, half a minute at most."""
    token_variable: Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")] | None
    """Environment variable of who asks, with a bearer token; null sends none."""

    def get(self, path: str) -> Any:
        """The answer, JSON, to a GET of `path` under the url; see `post`."""
        return self._ask(path, None)

    def post(self, path: str, content: Mapping[str, Any]) -> Any:
        """The answer, JSON, to `content` at `path` under the url.

        AwayError where none comes in all attempts, ValueError where the service refuses.
        """
        return self._ask(path, json.dumps(content).encode())

    def _ask(self, path: str, body: bytes | None) -> Any:
        said, wait = "", _FIRST_WAIT_S
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT_S)
            try:
                with urllib.request.urlopen(self._request(path, body), timeout=self.timeout_s) as answer:  # noqa: S310
                    return _parsed(answer.read(), self.url)
            except urllib.error.HTTPError as error:
                said = f"status {error.code}, {brief(error.read(500).decode(errors='replace').strip())}"
                if error.code not in _BUSY and error.code < HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise ValueError(f"{self.url}: refuses what it is asked ({said}); look into the service") from None
            except (OSError, HTTPException) as error:  # no connection, a reset, an answer that ends half-way
                said = str(getattr(error, "reason", error)) or type(error).__name__
        raise AwayError(
            f"{self.url}: no answer in {self.attempts} attempts ({brief(said)}); start the service and run it again, "
            "what was finished is kept"
        )

    def _request(self, path: str, body: bytes | None) -> urllib.request.Request:
        headers = {"Content-Type": "application/json"}
        if self.token_variable:
            token = os.environ.get(self.token_variable)
            if not token:
                raise ValueError(f"{self.url}: the environment has no {self.token_variable}, where its token should be")
            headers["Authorization"] = f"Bearer {token}"
        return urllib.request.Request(self.url + path, data=body, headers=headers)  # noqa: S310 - the scheme is checked


def _parsed(content: bytes, url: str) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        raise ValueError(f"{url}: answers no JSON (got {shown(content[:60])})") from None


def as_png(image: "Image") -> str:
    """A picture as a PNG in base64."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
