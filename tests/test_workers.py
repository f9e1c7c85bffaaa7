"""Several hosts, as processes of this one."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest
from test_pretrain import SMALL

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_two_workers_train_in_step_and_keep_their_own_files(tmp_path):
    with socket.socket() as one, socket.socket() as two:
        for sock in (one, two):
            sock.bind(("127.0.0.1", 0))
        workers = [f"127.0.0.1:{sock.getsockname()[1]}" for sock in (one, two)]
    words = [f"--{word}" for word in SMALL]
    words += [f"--runs_dir={tmp_path}", "--name=run", "--monitor.every=0"]
    processes = []
    for index in (0, 1):
        task = {"type": "worker", "index": index}
        cluster = json.dumps({"cluster": {"worker": workers}, "task": task})
        processes.append(
            subprocess.Popen(
                [sys.executable, "train.py", *words],
                cwd=ROOT,
                env={**os.environ, "TF_CONFIG": cluster},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for process in processes:
        out, err = process.communicate(timeout=500)
        assert "Next" in out, err[-2000:]
        # A host's only replica has no other to shuffle its keys with.
        assert "Batch norm in 8 groups per replica" in out
    first, second = (
        (tmp_path / "run" / place / "history.csv").read_text().splitlines()
        for place in ("", "worker-1")
    )
    figures = [[line.split(",")[:7] for line in lines] for lines in (first, second)]
    assert figures[0] == figures[1] and len(first) == 3
