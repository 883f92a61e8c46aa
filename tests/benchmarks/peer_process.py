"""One contender in a process of its own: what both sides of `make peers` share."""

import sys
import time
from collections.abc import Callable

BATCH = 256  # rows of the layers that have no time


def serve(step: Callable[[], object]) -> None:
    """A line in is a step, which returns when it is done; out come its seconds."""
    step()  # compiles
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        step()
        print(time.perf_counter() - began, flush=True)
