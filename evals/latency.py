"""Latency: the least time that a digital machine takes for a token of one user.

    GPUs         bytes read / bandwidth of the devices that hold them
    SRAM (A)     bytes read / (bytes held x bandwidth per byte): every bank at its rate,
                 each layer spread over all of them
    ROM (R)      layers x the time of one in the chip that was built

Bounds of a step: a batch waits for all of it. What is left out (launches, links,
arithmetic, the order of layers) makes them longer; `Device.source` has their facts.
"""

import math
from collections.abc import Sequence

from physnn.energy import Prices
from physnn.energy.events import Event


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
