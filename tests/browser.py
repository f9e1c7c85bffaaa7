"""A page in a real browser, where this machine has one."""

import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def browser():
    """The browser's path; the test is skipped without one."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser is on the path ({', '.join(NAMES)})")
    return found


def opened(path, script="", size=(1280, 900), screenshot=None, dark=False):
    """Opens a page, runs a script in a copy of it, and returns what became of it.

    Args:
        path: of the page.
        script: whose work is done when the page is.
        size: of the window.
        screenshot: a PNG to write instead of returning the document.
        dark: whether the person prefers a dark ground.

    Returns:
        The document as HTML, and what the console said.
    """
    text = pathlib.Path(path).read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder) / "page.html"
        end = f"<script>{script}</script></body>"
        copy.write_text(text.replace("</body>", end), encoding="utf-8")
        words = [browser(), "--headless=new", "--no-sandbox", "--disable-gpu"]
        words += [f"--user-data-dir={folder}/profile", "--hide-scrollbars"]
        words += [f"--window-size={size[0]},{size[1]}", "--enable-logging=stderr"]
        words += ["--virtual-time-budget=5000", "--disable-dev-shm-usage"]
        words += ["--blink-settings=preferredColorScheme=0"] if dark else []
        words += [f"--screenshot={screenshot}"] if screenshot else ["--dump-dom"]
        done = subprocess.run(
            [*words, copy.as_uri()], capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, re.findall(r"CONSOLE[^\]]*\] (.*)", done.stderr)
