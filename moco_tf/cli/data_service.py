"""A pool of processes that read and crop images: its dispatcher, and its workers."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import time
from collections.abc import Sequence

from moco_tf.cluster import silence
from moco_tf.config.reader import FlagParser
from moco_tf.log import import_tensorflow
from moco_tf.mistakes import Mistake
from moco_tf.shell import command
from moco_tf.stops import CTRL_C

# Of a worker that no longer answers: after this its steps are asked of others.
_LOST_MS = 10_000


def main(argv: Sequence[str]) -> int:
    """Serves until the process is asked to stop, and returns the exit code.

    Args:
        argv: words after the program's name.
    """
    options = _parser().parse_args(argv)
    address = _address(options)
    # A pool's machine may have GPUs; images are read by its CPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import_tensorflow()
    port = _free_port(options.port)
    server = _started(options, port, address)
    with_port = f"{options.host}:{port}"
    if options.role == "dispatcher":
        worker = command("data-service", "worker", "--dispatcher", with_port)
        print(f"Dispatcher at grpc://{with_port}. On each machine of the pool:")
        print(f"  {worker}")
        print(f"and for the run: --data.service=grpc://{with_port}", flush=True)
    else:
        print(f"Worker at {with_port} of the dispatcher at {address}.", flush=True)
    code = _until_asked()
    del server  # which has served as long as it was held
    return code


def _parser():
    parser = FlagParser(
        prog=command("data-service"),
        description=(
            "Let other machines read, decode and crop the images of a run: start one "
            "dispatcher, a worker on each machine that sees the images at the same "
            "paths, and the run with --data.service=grpc://HOST:PORT. The run's "
            "batches are the same ones, in the same order. Whoever reaches these "
            "ports can read files of these machines: keep them in a closed network."
        ),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("role", choices=("dispatcher", "worker"))
    parser.add_argument(
        "--port", type=int, default=0, help="Port to listen at (0: any that is free)."
    )
    parser.add_argument(
        "--host",
        default=socket.gethostname(),
        help="Name or address by which the others reach this machine.",
    )
    parser.add_argument(
        "--dispatcher", metavar="HOST:PORT", help="Of a worker: its dispatcher."
    )
    return parser


def _address(options):
    """HOST:PORT of the dispatcher of a worker, which answers."""
    given = options.dispatcher
    if options.role == "dispatcher":
        if given:
            raise Mistake("--dispatcher is of a worker; leave it out.")
        return None
    host, _, port = (given or "").removeprefix("grpc://").partition(":")
    if not (host and port.isdigit()):
        example = command("data-service", "worker", "--dispatcher", "host:5000")
        raise Mistake(f"--dispatcher={given} is not HOST:PORT; for instance: {example}")
    if why := silence(host, int(port)):
        raise Mistake(
            f"no dispatcher answers at {host}:{port} ({why}); start it first."
        )
    return f"{host}:{port}"


def _free_port(asked):
    """The port asked for, or any; TensorFlow would share one that is taken."""
    try:
        with socket.socket() as sock:
            sock.bind(("", asked))
            return sock.getsockname()[1]
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise Mistake(
            f"--port={asked} cannot be listened at ({why.lower()}); choose another one."
        ) from None


def _started(options, port, address):
    import tensorflow as tf

    service = tf.data.experimental.service
    if options.role == "dispatcher":
        return service.DispatchServer(
            service.DispatcherConfig(port=port, worker_timeout_ms=_LOST_MS)
        )
    return service.WorkerServer(
        service.WorkerConfig(
            dispatcher_address=address,
            worker_address=f"{options.host}:{port}",
            port=port,
            heartbeat_interval_ms=1000,
        )
    )


def _until_asked() -> int:
    """Sleeps until SIGINT or SIGTERM."""
    code = None

    def ask(number, frame):
        nonlocal code
        code = CTRL_C if number == signal.SIGINT else 0

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    while code is None:
        time.sleep(0.2)
    return code
