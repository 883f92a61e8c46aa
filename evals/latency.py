"""Latency: the least time that a digital machine takes for a token of one user.

    GPUs, HBM,   bytes read / bandwidth of the devices that hold them
    flash
    SRAM (A),    bytes read / (bytes held x bandwidth per byte): every bank at its rate,
    DRAM banks   each layer spread over all of them
    macros       the pass of one macro, as all of them work at once
    ROM (R)      layers x the time of one in the chip that was built

Bounds of a step: a batch waits for all of it. What is left out (launches, links,
arithmetic, the order of layers) makes them longer; `Device.source` has their facts.
"""

import math
from collections.abc import Sequence

from physnn.energy import Prices
from physnn.energy.events import Event

# The largest batch that was measured (gpu.b200, 2,043): the law is held to it.
LARGEST_BATCH = 2043


def memory_B(events: Sequence[Event], prices: Prices, period_s: float) -> float:
    """What is held: weights once, a cache for every sequence, with its waste."""
    held = 0.0
    for event in events:
        if event.name == "stored_bit_s":
            size = float(event.count) / period_s / 8
            if event.part == "cache":
                serving = prices.serving
                size *= serving.batch / (1 - serving.cache_waste)
            held += size
    return held


def least_latency(
    events: Sequence[Event], prices: Prices, *, period_s: float, n_layers: int
) -> tuple[int | None, float | None]:
    """Devices that hold it all, and the least time of a token [s].

    Devices are None where they are not counted, both where the list tells nothing.
    """
    device, serving = prices.device, prices.serving
    if device is None:
        return None, None
    if device.layer_s:
        return None, n_layers * device.layer_s
    if device.weights_alone:
        events = [e for e in events if e.name != "cache_byte" and e.part != "cache"]
    held_B, read_B = memory_B(events, prices, period_s), 0.0
    for event in events:
        if event.name in ("weight_byte", "cache_byte"):
            # Of a step: the weights once, and the cache of every sequence.
            weights = event.name == "weight_byte"
            times = serving.times(
                event.name, event.part, event.active, per_batch=weights
            )
            read_B += float(event.count) * times * serving.batch
    if device.in_place:
        bandwidth = held_B / device.memory_B * device.bandwidth_B_per_s
        return None, read_B / bandwidth if held_B else None
    devices = math.ceil(held_B / device.memory_B)
    return devices, read_B / (devices * device.bandwidth_B_per_s)


def served_at(
    user_rate: float,
    events: Sequence[Event],
    prices: Prices,
    *,
    period_s: float,
    n_layers: int,
) -> Prices:
    """The list with the largest batch, up to `LARGEST_BATCH`, whose users can each get
    `user_rate` tokens per second by the bound.

    Raises `ValueError` for a rate that is not positive, one that a user alone cannot
    get, and a list that tells nothing of time.
    """
    if not 0 < user_rate < math.inf:
        raise ValueError(
            "Argument `user_rate` must be positive and finite, but is"
            f" {user_rate:g} tokens per second."
        )

    def least(batch: int) -> float:
        served = prices.at_batch(batch)
        _, found = least_latency(events, served, period_s=period_s, n_layers=n_layers)
        if found is None:
            raise ValueError(
                f"Argument `user_rate` goes with a machine whose time is told, but"
                f" `{prices.name}` has no [device]: leave it out."
            )
        return found

    if least(1) * user_rate > 1:
        raise ValueError(
            f"A user of `{prices.name}` can have at most {1 / least(1):.4g} tokens per"
            f" second of this design, but argument `user_rate` asks for {user_rate:g}."
        )
    low, high = 1, LARGEST_BATCH + 1
    while high - low > 1:
        middle = (low + high) // 2
        fits = least(middle) * user_rate <= 1
        low, high = (middle, high) if fits else (low, middle)
    return prices.at_batch(low)
