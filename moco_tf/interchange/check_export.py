"""Checks that this SavedModel gives the features that it gave when it was exported.

    python check.py                  loads the folder; needs TensorFlow and nothing else
    python check.py URL              asks a TensorFlow Serving, where URL is such as
                                     http://localhost:8501/v1/models/encoder

Prints how far the features are off, how long it takes, and how large it is; exits
with 1 where they are off by more than the limit.
"""

import base64
import json
import pathlib
import sys
import time
import urllib.request

EXTRA = pathlib.Path(__file__).resolve().parent
GOLDEN: dict = {}


def main(url=None):
    """Asks the folder or the server, prints, and gives the exit code."""
    GOLDEN.update(json.loads((EXTRA / "golden" / "expected.json").read_text()))
    ask = served(url) if url else loaded()
    ask(1)  # the first call is slower
    ask(32)
    found, one = timed(ask, 1)
    _, many = timed(ask, 32)
    off = difference(found)
    size = sum(f.stat().st_size for f in EXTRA.parent.rglob("*") if f.is_file())
    print(
        f"features differ by {off:.1e} of their norm (limit {GOLDEN['limit']:g}); "
        f"1 image {1e3 * one:.1f} ms, 32 images {1e3 * many:.0f} ms; "
        f"{size / 1e6:.0f} MB"
    )
    return int(not off <= GOLDEN["limit"])


def timed(ask, count):
    """Features, and how many seconds they took."""
    start = time.perf_counter()
    found = ask(count)
    return found, time.perf_counter() - start


def difference(found):
    """How far features are from the golden ones, as a share of their norm."""
    expected = GOLDEN["features"]
    off = sum((a - b) ** 2 for a, b in zip(found, expected)) ** 0.5
    return off / sum(b**2 for b in expected) ** 0.5


def loaded():
    """Features of the first of so many copies of the golden image, by the folder."""
    import tensorflow as tf

    model = tf.saved_model.load(str(EXTRA.parent))
    signature = model.signatures[GOLDEN["signature"]]

    def ask(count):
        if GOLDEN["signature"] == "encoded":
            file = (EXTRA / "golden" / "image.png").read_bytes()
            out = signature(encoded=tf.constant([file] * count))
        else:
            out = signature(images=tf.constant([pixels()] * count, tf.float32))
        return out["features"].numpy()[0].tolist()

    return ask


def served(url):
    """The same, by a server's REST interface."""

    def ask(count):
        if GOLDEN["signature"] == "encoded":
            file = (EXTRA / "golden" / "image.png").read_bytes()
            one = {"encoded": {"b64": base64.b64encode(file).decode()}}
        else:
            one = pixels()
        body = {"signature_name": GOLDEN["signature"], "instances": [one] * count}
        request = urllib.request.Request(f"{url}:predict", json.dumps(body).encode())
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["predictions"][0]["features"]

    return ask


def pixels():
    """The golden image of channels that no kind of file has."""
    return json.loads((EXTRA / "golden" / "image.json").read_text())


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
