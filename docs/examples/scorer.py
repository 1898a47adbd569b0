"""A scorer for the reward `http`: how bright an image is. Put a model in the place of `score`, in any environment.

python docs/examples/scorer.py 8700
"""

import base64
import io
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image, ImageStat


def score(image: Image.Image, prompt: dict[str, Any]) -> float | None:
    """Mean brightness in [0, 1]; less is more where the prompt asks for night. None is no verdict."""
    if not prompt["text"]:
        return None
    bright = ImageStat.Stat(image.convert("L")).mean[0] / 255
    return 1 - bright if "night" in prompt["text"].split() else bright


class Scorer(BaseHTTPRequestHandler):
    """Answers {"images": [PNG in base64, ...], "prompts": [{"text", "facts", "negative"}, ...]}: {"scores": [...]}."""

    def do_POST(self) -> None:
        """One batch."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        images = [Image.open(io.BytesIO(base64.b64decode(each))) for each in asked["images"]]
        scores = [score(image, prompt) for image, prompt in zip(images, asked["prompts"], strict=True)]
        answer = json.dumps({"scores": scores}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Scorer).serve_forever()
