"""TensorBoard as a user starts it: the printed command, a server, what it answers."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import threading
import urllib.request

import pytest
from conftest import strip_runs
from test_pretrain import small

from moco_tf.pretrain import pretrain
from moco_tf.shell import tensorboard


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("board with a space")
    with pytest.MonkeyPatch.context() as patch:
        strip_runs(patch, board=True)
        pretrain(small(folder))
    return folder / "run"


@contextlib.contextmanager
def served(*runs):
    """The address of a server that the printed command started; it is stopped."""
    words = [*shlex.split(tensorboard(*runs)), "--port=0", "--host=127.0.0.1"]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    # A server that says nothing is ended, which ends the reading of its output too.
    limit = threading.Timer(120, process.kill)
    limit.start()
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if address := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        else:
            pytest.fail("TensorBoard did not start:\n" + "".join(said))
        yield address[0]
    finally:
        limit.cancel()
        process.terminate()
        process.wait(20)
        process.stdout.close()


def ask(address, path):
    with urllib.request.urlopen(f"{address}/data/plugin/{path}", timeout=60) as answer:
        return json.loads(answer.read())


def test_printed_command_serves_scalars_images_and_projector(run):
    with served(run) as address:
        for plugin, tag in (("scalars", "contrast/loss"), ("images", "views/query")):
            # The server reads the files in its own time.
            found = wait_for(lambda p=plugin: ask(address, f"{p}/tags"))
            ((name, tags),) = found.items()
            assert name == "."
            assert any(name.startswith(tag) for name in tags), tags
        (name,) = ask(address, "projector/runs")
        info = ask(address, f"projector/info?run={name}")
        assert info["embeddings"][0]["tensorShape"] == [100, 12]


def wait_for(read, seconds=60):
    """What `read` gives as soon as that is not empty."""
    ticks = threading.Event()
    for _ in range(seconds * 2):
        if found := read():
            return found
        ticks.wait(0.5)
    pytest.fail("TensorBoard found nothing in the run's logs")


def test_command_is_found_without_the_environments_programs_on_the_path(
    run, monkeypatch
):
    monkeypatch.setenv("PATH", os.defpath)
    first, *rest = shlex.split(tensorboard(run))
    assert os.path.sep in first and os.access(first, os.X_OK)
    assert rest == ["--logdir", str(run / "tensorboard")]


def test_several_runs_are_shown_by_their_names(run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run / "tensorboard", other / "tensorboard")
    with served(run, other) as address:

        def both():
            tags = ask(address, "scalars/tags")
            return tags if len(tags) == 2 else None

        assert set(wait_for(both)) == {"run/.", "other/."}
