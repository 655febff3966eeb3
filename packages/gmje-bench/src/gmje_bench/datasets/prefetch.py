"""Batches come to the device while the step before is computed."""

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["on_device"]

Batch = tuple[Tensor, ...]
Item = TypeVar("Item")
Result = TypeVar("Result")

# Batches that wait on the device, besides the one that is computed and the one that is being copied.
_WAITING = 1
# Seconds after which a thread whose results nobody takes looks whether it should end.
_PATIENCE = 0.1


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Move batches to a device, in order.

    On a GPU a thread takes the next batch and copies it on a stream of its own; from page-locked memory that costs the
    step that is computed meanwhile nothing. Elsewhere a batch is moved when it is asked for.

    Args:
        batches: Tensors of each batch. What they raise is raised here.
        device: Where they go.

    Examples:
        >>> [float(x) for x, in on_device(iter([(torch.ones(1),), (torch.zeros(1),)]), torch.device("cpu"))]
        [1.0, 0.0]
    """
    if device.type != "cuda":
        for batch in batches:
            yield tuple(tensor.to(device) for tensor in batch)
        return
    stream = torch.cuda.Stream(device)

    def copy(batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            moved = tuple(tensor.to(device, non_blocking=True) for tensor in batch)
            event = torch.cuda.Event()
            event.record(stream)
        return moved, event

    with closing(ahead(_using(device, batches), copy)) as copies:
        for moved, event in copies:
            computing = torch.cuda.current_stream(device)
            computing.wait_event(event)
            for tensor in moved:
                # The allocator must not give the memory away before the step has used it.
                tensor.record_stream(computing)
            yield moved


def ahead(items: Iterator[Item], function: Callable[[Item], Result]) -> Generator[Result, None, None]:
    """Apply a function to items in order, in a thread that stays a little ahead of who takes the results.

    Args:
        items: What is taken in the thread; what it raises is raised here.
        function: What is called in the thread.

    Examples:
        >>> list(ahead(iter([1, 2, 3]), lambda number: 10 * number))
        [10, 20, 30]
    """
    done: queue.Queue[tuple[Result] | BaseException | None] = queue.Queue(_WAITING)
    stopped = threading.Event()

    def put(what: tuple[Result] | BaseException | None) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                return done.put(what, timeout=_PATIENCE)

    def work() -> None:
        try:
            for item in items:
                put((function(item),))
                if stopped.is_set():
                    return
        except BaseException as error:
            put(error)
        else:
            put(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (what := done.get()) is not None:
            if isinstance(what, BaseException):
                raise what
            yield what[0]
    finally:
        stopped.set()
        thread.join()


def _using(device: torch.device, batches: Iterator[Batch]) -> Iterator[Batch]:
    """The batches, taken by a thread whose page-locked memory belongs to the device."""
    torch.cuda.set_device(device)
    yield from batches
