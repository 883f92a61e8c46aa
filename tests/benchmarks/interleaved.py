"""Time several functions in turns, so that what disturbs one disturbs all."""

import statistics
import time
from collections.abc import Callable, Mapping

import jax


def interleaved(
    functions: Mapping[str, Callable[[], object]], *, rounds: int
) -> dict[str, float]:
    """Median seconds of each function, without its first call, which compiles."""
    for function in functions.values():
        jax.block_until_ready(function())
    seconds = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            began = time.perf_counter()
            jax.block_until_ready(function())
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def report(benchmark, medians: dict[str, float], *, floor: str) -> None:
    """Print and record the medians and their ratio to `floor`."""
    print()
    for name, seconds in medians.items():
        ratio = seconds / medians[floor]
        print(f"  {name:40s} {seconds * 1e3:9.2f} ms   {ratio:5.2f} x {floor}")
        benchmark.extra_info[name] = {"seconds": seconds, f"per {floor}": ratio}


def time_once(benchmark, function: Callable[[], object]) -> None:
    """What pytest-benchmark asks of a benchmark; the medians above are the result."""
    benchmark.pedantic(lambda: jax.block_until_ready(function()), rounds=1)
