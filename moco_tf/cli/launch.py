"""Rehearse a run of several hosts on one machine, a process for each."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from moco_tf.config.reader import FlagParser
from moco_tf.mistakes import Mistake
from moco_tf.shell import command
from moco_tf.stops import CTRL_C, Stopped, listening

# Seconds that workers have to end by themselves once one of them has failed.
_GRACE = 30


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns the exit code of the first worker that fails.

    Args:
        argv: words after the program's name.
    """
    parser = FlagParser(
        prog=command("launch"),
        usage=f"{command('launch')} --workers N -- train [--section.key=value ...]",
        description=(
            "Start a command as N workers on this machine, as a cluster would on N "
            "hosts, to rehearse it. The first worker's output is shown, and of the "
            "others what they say of mistakes. --distribution.replicas=M makes M CPU "
            "devices in each worker."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--workers", type=int, default=2, metavar="N", help="How many processes."
    )
    own, words = _split(argv)
    options = parser.parse_args(own)
    if options.workers < 1:
        raise Mistake(f"--workers={options.workers} is too small; use 1 or more.")
    if not words:
        example = f"{command('launch')} --workers 2 -- train --config demo"
        raise Mistake(f"launch has no command to start; for instance: {example}")
    workers = _start(words, options.workers)
    with listening():
        try:
            return _ended(workers)
        except Stopped as stop:
            # Not of this process's group, so that the terminal's Ctrl-C comes once.
            asked = signal.SIGINT if stop.code == CTRL_C else signal.SIGTERM
            for worker in workers:
                worker.send_signal(asked)
            codes = [worker.wait() for worker in workers]
            # A worker that did not listen yet has died of the signal.
            raise Stopped(next((c for c in codes if c > 0), stop.code)) from None
        finally:
            for worker in workers:
                worker.kill()


def _split(argv):
    """Own words and those of the command, which begins behind -- or at a plain word."""
    words = list(argv)
    if "--" in words:
        at = words.index("--")
        return words[:at], words[at + 1 :]
    plain = [i for i, w in enumerate(words) if w in ("train", "evaluate")]
    at = plain[0] if plain else len(words)
    return words[:at], words[at:]


def _start(words, count):
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{sock.getsockname()[1]}" for sock in sockets]
    for sock in sockets:
        sock.close()
    workers = []
    for index in range(count):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        worker = subprocess.Popen(
            [sys.executable, "-m", "moco_tf", *words],
            env={**os.environ, "TF_CONFIG": config},
            stdout=subprocess.DEVNULL if index else None,
            stderr=subprocess.PIPE if index else None,
            text=True,
            start_new_session=True,
        )
        if index:
            reader = threading.Thread(target=_show, args=(index, worker), daemon=True)
            reader.start()
        workers.append(worker)
    return workers


def _show(index, worker):
    for line in worker.stderr:
        if line.strip():
            print(f"[worker {index}] {line}", end="", file=sys.stderr, flush=True)


def _ended(workers):
    """Waits until all have ended; the exit code of the first that failed."""
    failure, deadline = 0, None
    while any(worker.poll() is None for worker in workers):
        failed = [worker.returncode for worker in workers if worker.poll()]
        if failed and deadline is None:
            failure, deadline = failed[0], time.monotonic() + _GRACE
        if deadline and time.monotonic() > deadline:
            for worker in workers:
                worker.kill()
        time.sleep(0.1)
    codes = [failure, *(worker.returncode for worker in workers)]
    code = next(filter(None, codes), 0)
    # Of a signal, as shells count them.
    return 128 - code if code < 0 else code
