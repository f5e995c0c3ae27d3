"""Reading while something else computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T], most: int = 2) -> Iterator[T]:
    """The same items, made by a thread of their own before they are asked for, at most so many of them."""
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(most)
    stopped = threading.Event()

    def put(item: T | None, error: BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return ready.put((item, error), timeout=1)
            except queue.Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put(item, None)
                if stopped.is_set():
                    return
            put(None, None)
        except BaseException as error:  # whatever it is belongs to the one who waits for the item
            put(None, error)

    threading.Thread(target=make, daemon=True).start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stopped.set()
