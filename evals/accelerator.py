"""Accelerator: what a device of a machine can do at most, and how long a step takes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.compiled_cost import Cost
from physnn.configs import find_config, read_described

_AMOUNTS = ("devices", "memory_bytes", "memory_bytes_per_s", "link_bytes_per_s")
_PRECISIONS = ("default", "bfloat16", "float32")


@dataclass(frozen=True)
class Accelerator:
    """A machine of equal devices, as `configs/accelerators/<name>.toml` gives it.

    Of each device: `memory_bytes` and how fast it is read or written; what leaves it
    for the others, `link_bytes_per_s`; `flops_per_s` of products by
    `compute.matmul_precision`.
    """

    name: str
    devices: int
    memory_bytes: float
    memory_bytes_per_s: float
    link_bytes_per_s: float
    flops_per_s: Mapping[str, float]

    def roofline(self, cost: Cost, *, precision: str) -> "Roofline":
        """The least time of each part of a step, at the data sheet's rates.

        Raises `ValueError` for a precision whose rate the file does not give.
        """
        if precision not in self.flops_per_s:
            raise ValueError(
                f"Argument `compute.matmul_precision` must be one of"
                f" {sorted(self.flops_per_s)} on {self.name}, but is {precision!r}:"
                " the data sheet gives no rate for it."
            )
        return Roofline(
            cost.flops / self.flops_per_s[precision],
            cost.moved_bytes / self.memory_bytes_per_s,
            cost.wire_bytes / self.link_bytes_per_s,
        )


@dataclass(frozen=True)
class Roofline:
    """Seconds of products, of memory and of links in a step; an estimate.

    At peak rates, so a floor of each (Williams et al. 2009, DOI
    10.1145/1498765.1498785).
    """

    products_s: float
    memory_s: float
    links_s: float

    @property
    def least_s(self) -> float:
        """If all three overlap."""
        return max(self.products_s, self.memory_s, self.links_s)

    @property
    def most_s(self) -> float:
        """If nothing does."""
        return self.products_s + self.memory_s + self.links_s

    @property
    def bound(self) -> str:
        """What takes longest."""
        parts = {
            "products": self.products_s,
            "memory": self.memory_s,
            "links": self.links_s,
        }
        return max(parts, key=lambda name: parts[name])


def load_accelerator(name_or_path: str | Path) -> Accelerator:
    """Read a machine from `configs/accelerators/` by name, or from a TOML file.

    Raises `ValueError` for a file that is not TOML, and for a number that is missing,
    unknown, not positive or without a source.
    """
    path = find_config("accelerators", name_or_path)
    rows = read_described(path)
    rates = rows.pop("flops_per_s", {})
    for found, known in ((rows, _AMOUNTS), (rates, _PRECISIONS)):
        if unknown := sorted(set(found) - set(known)):
            raise ValueError(
                f"{path} must hold only {list(known)} there, but has `{unknown[0]}`."
            )
    if missing := [name for name in _AMOUNTS if name not in rows]:
        raise ValueError(f"{path} must have `{missing[0]}`, but it is missing.")
    if "default" not in rates:
        raise ValueError(f"{path} must have `flops_per_s.default`, but has none.")
    amounts = {name: _number(row, name, path) for name, row in rows.items()}
    if amounts["devices"] % 1:
        raise ValueError(
            f"{path}: `devices` must be whole, but is {amounts['devices']}."
        )
    return Accelerator(
        name=path.stem,
        devices=int(amounts.pop("devices")),
        **amounts,
        flops_per_s={name: _number(row, name, path) for name, row in rates.items()},
    )


def _number(row: Any, name: str, path: Path) -> float:
    if not isinstance(row, dict) or not row.get("source") or "value" not in row:
        raise ValueError(
            f"{path}: `{name}` must have a `value` and a `source`, but is {row!r}."
        )
    value = row["value"]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise ValueError(
            f"{path}: `{name}` must be a positive, finite number, but is {value!r}."
        )
    return float(value)
