"""Starts the processes of a run where no launcher did: a mistake stays one line, and a signal reaches all of them.

Launchers print a traceback of their own when a process ends with an error, whatever it said before. Free of torch.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

__all__ = ["start_processes"]

# Seconds between looks at the processes, and those that the others have to end after one has failed.
_LOOK, _GRACE = 0.1, 10.0


def start_processes(command: Sequence[str], count: int) -> int:
    """Run a command in several processes of this machine that find each other as torchrun's do, and wait for them.

    Each process has ``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``, ``LOCAL_WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``
    in its environment. Ctrl-C and SIGTERM are passed on. Where a process fails, the others are asked to stop, and
    killed if they do not.

    Args:
        command: Program and arguments.
        count: Number of processes.

    Returns:
        0 where all ended well, else the exit status of the first that failed: 128 + n after signal n.

    Examples:
        >>> import sys
        >>> start_processes([sys.executable, "-c", "import os, sys; sys.exit(2 * int(os.environ['RANK']))"], 2)
        2
    """
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        # Else each process starts a thread on every core.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count)),
    }
    processes: list[subprocess.Popen[bytes]] = []
    with _passing_on(processes):
        for rank in range(count):
            environment = os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # A session of its own: Ctrl-C then reaches the processes once, from here.
            processes.append(subprocess.Popen(command, env=environment, start_new_session=True))
        try:
            return _wait(processes)
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                process.wait()


def _wait(processes: list[subprocess.Popen[bytes]]) -> int:
    """The first exit status that is not 0; the processes that are then left are asked to stop after a while."""
    first, since, asked = 0, 0.0, False
    while running := [process for process in processes if process.poll() is None]:
        if not first:
            first = next((process.returncode for process in processes if process.returncode), 0)
            since = time.monotonic()
        elif time.monotonic() > since + 2 * _GRACE:
            break
        elif time.monotonic() > since + _GRACE and not asked:
            asked = True
            for process in running:
                process.terminate()
        time.sleep(_LOOK)
    first = first or next((process.returncode for process in processes if process.returncode), 0)
    return first if first >= 0 else 128 - first


@contextmanager
def _passing_on(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Pass the signals that end a program on to the processes instead of ending this one."""

    def pass_on(number: int, _: FrameType | None) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port() -> int:
    """A port that no process listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
