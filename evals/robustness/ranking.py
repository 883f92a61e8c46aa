"""Ranking: which bank spends the quality by its mismatch, and what area would cost."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Key

from evals.chip_mesh import chip_keys, each_chip, everywhere, full_group
from evals.robustness.mismatched import chip_of, draws, open_banks
from evals.robustness.scoring import Seen, means_of
from evals.robustness.suite import Ranking
from physnn.bank import Bank
from physnn.energy import bill, load_prices
from physnn.fabricate import is_bank
from physnn.keys import stream
from physnn.materialized import compiled
from physnn.process import Process


def ranked(
    model: Any,
    process: Process,
    settings: Ranking,
    *,
    seen: Seen,
    prices: str,
    key: Key[Array, ""],
) -> list[dict[str, Any]]:
    """Every bank with what its mismatch alone costs, the dearest first.

        [{bank, kind, devices, area_m2,
          lost: bits over the design, mean of the chips, lost_error: of that mean,
          lost_enlarged: the same with `area` times the area,
          energy_J: what that adds to a token, None where no bill depends on it,
          more_m2: the area it adds}]

    All other banks are ideal and temporal noise is off, so that the difference to the
    design on the same windows is that of the bank. σ shrinks with the root of the area
    (Pelgrom); area is that of all unit devices of the bank.
    """
    quiet, root = process.noiseless(), stream(key, "ranking")
    banks = open_banks(model, process)
    keys = chip_keys(root, 0, full_group(settings.chips))
    shrunk = settings.area**-0.5
    none = dict.fromkeys(banks, jnp.zeros(()))
    shared = everywhere((model, quiet, seen))
    design = _bits(keys, none, *shared)[0]
    period_s = model.config.period_s
    listed = load_prices(prices)
    spent = bill(model, listed, process=process, period_s=period_s).total.nominal
    rows = []
    for name, bank in banks.items():
        lost = {}
        for scale in (1.0, shrunk):
            # Of one type with the zeros, or each bank were a compilation of its own.
            only = none | {name: jnp.asarray(scale, jnp.float32)}
            each = np.asarray(_bits(keys, only, *shared))[: settings.chips]
            lost[scale] = each - float(design)
        larger = enlarged(model, name, settings.area)
        dearer = bill(larger, listed, process=process, period_s=period_s).total.nominal
        area = bank.value.size * bank.n_units * bank.area_m2 * float(bank.area_factor())
        n = settings.chips
        error = float(np.std(lost[1.0], ddof=1) / n**0.5) if n > 1 else None
        rows.append(
            {
                "bank": name,
                "kind": bank.kind,
                "devices": int(bank.value.size),
                "area_m2": area,
                "lost": float(np.mean(lost[1.0])),
                "lost_error": error,
                "lost_enlarged": float(np.mean(lost[shrunk])),
                "energy_J": dearer - spent if dearer != spent else None,
                "more_m2": (settings.area - 1) * area,
            }
        )
    return sorted(rows, key=lambda row: -row["lost"])


def enlarged(model: Any, name: str, area: float) -> Any:
    """The model with `area` times the area for every device of one bank."""

    def grown(path, bank):
        if not isinstance(bank, Bank) or jtu.keystr(path) != name:
            return bank
        # A bank of fewer units than its largest has them all before they grow.
        own = jnp.maximum(0.0 if bank.size is None else bank.size, 0.0)
        return dataclasses.replace(bank, size=own + jnp.log(area))

    return jtu.tree_map_with_path(grown, model, is_leaf=is_bank)


@compiled
def _bits(keys, scale: dict[str, Any], model, process, seen: Seen):
    """Bits of chips whose banks have `scale` times their mismatch."""

    def one(key, scale, model, process, seen):
        chip = chip_of(model, process, draws(model, process, key), scale)
        inputs = seen.tokens[:, :-1]
        logits = chip.logits(inputs, process=process, key=jr.key(0))
        return means_of(logits, seen).bits

    return each_chip(one, keys, scale, model, process, seen)
