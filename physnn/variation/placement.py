"""Where the devices of a design lie on its die."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from physnn.bank import Bank


@dataclass(frozen=True)
class Place:
    """Of one bank: its lower left corner and the pitch of its devices [mm]."""

    left_mm: float
    bottom_mm: float
    pitch_mm: float

    def positions_mm(
        self, shape: tuple[int, ...]
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """`(x, y)` of each device from the middle of the die, to be broadcast.

        The last axis of a bank runs to the right, all others upwards.
        """
        last = shape[-1] if shape else 1
        rows = math.prod(shape[:-1])
        middles = lambda n: self.pitch_mm * (jnp.arange(n, dtype=jnp.float32) + 0.5)
        x, y = self.left_mm + middles(last), self.bottom_mm + middles(rows)
        return x.reshape((1,) * (len(shape) - 1) + (last,)), y.reshape(*shape[:-1], 1)


def floor_plan(banks: Sequence[Bank]) -> tuple[Place, ...]:
    """Banks from left to right on shelves of a die that is about a square.

    A device takes its smallest drawn area; switches, wires and trained sizes are left
    out, so that a plan follows from shapes alone.
    """
    boxes = []
    for bank in banks:
        pitch = math.sqrt(bank.area_m2 * bank.n_units) * 1e3
        shape = bank.value.shape
        rows = math.prod(shape[:-1])
        boxes.append((pitch, pitch * (shape[-1] if shape else 1), pitch * rows))
    total = sum(width * height for _, width, height in boxes)
    side = max([math.sqrt(total), *(width for _, width, _ in boxes)])
    corners, x, y, shelf = [], 0.0, 0.0, 0.0
    for _, width, height in boxes:
        if x > 0 and x + width > side * (1 + 1e-9):
            x, y, shelf = 0.0, y + shelf, 0.0
        corners.append((x, y))
        x, shelf = x + width, max(shelf, height)
    top = y + shelf
    return tuple(
        Place(left - side / 2, bottom - top / 2, pitch)
        for (left, bottom), (pitch, _, _) in zip(corners, boxes, strict=True)
    )
