"""Store: what a suite has measured so far, a line each, so that it can go on."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


def fingerprint(facts: dict[str, Any], model: Any) -> str:
    """Digest of everything that results depend on: settings, and the weights."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


class Store:
    """Results by name in a file of JSON lines; the first line says of what.

    A file of other settings or weights, and a line that was torn, count as not there.
    """

    def __init__(self, path: Path, mark: str):
        self._path = path
        self.rows: dict[str, Any] = {}
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        parsed = [_parsed(line) for line in lines]
        if parsed and parsed[0] == {"fingerprint": mark}:
            for each in parsed[1:]:
                if isinstance(each, dict) and set(each) == {"name", "row"}:
                    self.rows[each["name"]] = each["row"]
        # Written again without what is torn: beside first, then renamed.
        kept = [{"fingerprint": mark}] + [
            {"name": name, "row": row} for name, row in self.rows.items()
        ]
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.write_text("".join(json.dumps(each) + "\n" for each in kept), "utf-8")
        beside.replace(path)

    def get(self, name: str, measure: Callable[[], Any]) -> Any:
        """The result called `name`; measured and kept if it is not there."""
        if name not in self.rows:
            self._keep(name, measure())
        return self.rows[name]

    def _keep(self, name: str, row: Any) -> None:
        self.rows[name] = row
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, "row": row}) + "\n")


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
