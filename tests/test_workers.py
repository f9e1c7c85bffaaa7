"""Several hosts, as processes of this one."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import pytest
from pretrained_runs import write_images
from test_pretrain import SMALL

ROOT = pathlib.Path(__file__).resolve().parents[1]


def start(folder, *overrides, own=((), ())):
    """Exit codes, outputs and errors of two workers, one replica each.

    Args:
        folder: of the run.
        overrides: words of both.
        own: words of each.
    """
    with socket.socket() as one, socket.socket() as two:
        for sock in (one, two):
            sock.bind(("127.0.0.1", 0))
        workers = [f"127.0.0.1:{sock.getsockname()[1]}" for sock in (one, two)]
    words = [f"--{word}" for word in SMALL]
    words += [f"--runs_dir={folder}", "--name=run", "--monitor.every=0", *overrides]
    processes = []
    for index in (0, 1):
        task = {"type": "worker", "index": index}
        cluster = json.dumps({"cluster": {"worker": workers}, "task": task})
        processes.append(
            subprocess.Popen(
                [sys.executable, "train.py", *words, *own[index]],
                cwd=ROOT,
                env={**os.environ, "TF_CONFIG": cluster},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    ended = [process.communicate(timeout=500) for process in processes]
    return [(p.returncode, *texts) for p, texts in zip(processes, ended)]


def train(folder, *overrides):
    """What two workers print that train to their end."""
    printed = []
    for _, out, err in start(folder, *overrides):
        assert "Next" in out, err[-2000:]
        printed.append(out)
    return printed


def histories(folder):
    """The first columns, all figures of the loss, of both workers' histories."""
    return [
        [
            line.split(",")[:7]
            for line in (folder / "run" / place / "history.csv").read_text().split()
        ]
        for place in ("", "worker-1")
    ]


@pytest.mark.slow
def test_two_workers_train_in_step_keep_their_own_files_and_go_on_together(tmp_path):
    for out in train(tmp_path):
        # A host's only replica has no other to shuffle its keys with.
        assert "Batch norm in 8 groups per replica" in out
    first, second = histories(tmp_path)
    assert first == second and len(first) == 4
    # The second worker dies before it has saved the second epoch.
    folder = tmp_path / "run" / "worker-1" / "checkpoints"
    for file in folder.glob("epoch-2*"):
        file.unlink()
    (folder / "checkpoint").write_text('model_checkpoint_path: "epoch-1"\n')
    for out in train(tmp_path):
        assert "Continuing after epoch 1 of 2" in out
    again = histories(tmp_path)
    assert again[0] == again[1] == first


@pytest.mark.slow
def test_workers_that_read_different_images_stop_before_a_step(tmp_path):
    write_images(tmp_path / "one", 12)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    next((tmp_path / "two" / "red").glob("*.png")).unlink()
    own = [[f"--data.data_dir={tmp_path}/{name}"] for name in ("one", "two")]
    ended = start(tmp_path, "--data.source=folder", own=own)
    for code, _, err in ended:
        assert code == 2
        assert "host 0 has 36 images and host 1 35; give every host the same" in err


@pytest.mark.slow
def test_worker_does_not_wait_for_one_that_failed(tmp_path):
    write_images(tmp_path / "one", 12)
    (tmp_path / "two").mkdir()
    own = [[f"--data.data_dir={tmp_path}/{name}"] for name in ("one", "two")]
    first, second = start(tmp_path, "--data.source=folder", own=own)
    assert first[0] == second[0] == 2
    assert "two' has no images" in second[2]
    assert "host 1 has stopped for the reason that it prints" in first[2]
