"""The tables of a report as CSV: the ladder, ratios, factors, lines and prices."""

import csv
import io
from collections.abc import Iterator
from typing import Any

Cells = Iterator[dict[str, Any]]


def tables(results: dict) -> dict[str, str]:
    """CSV by file name; energies in J, ratios as factors, what is unknown empty.

    A table always has its header, so that a reader finds the columns it expects. The
    last column of each says which prices of a system's bills are not those of physnn.
    """
    systems = results.get("systems") or []
    physical = [s for s in systems if s.get("kind") == "physical"]
    made = {
        "ladder.csv": (_LADDER, _ladder(systems)),
        "ratios.csv": (_RATIOS, _ratios(physical)),
        "waterfall.csv": (_WATERFALL, _waterfall(physical)),
        "amdahl.csv": (_AMDAHL, _amdahl(physical)),
        "rulers.csv": (_RULERS, _rulers(physical)),
        "next_to_shrink.csv": (_NEXT, _next(physical)),
        "tornado.csv": (_TORNADO, _tornado(physical)),
    }
    own = {s["name"]: _overrides(s) for s in systems}
    return {
        name: _text(
            (*columns, "overrides"),
            (row | {"overrides": own.get(row["system"], "")} for row in rows),
        )
        for name, (columns, rows) in made.items()
    }


def _overrides(system: dict) -> str:
    bills = (system.get("bills") or {}).values()
    return " ".join(said for bill in bills for said in bill.get("overrides") or ())


def _text(columns: tuple[str, ...], rows: Cells) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _three(name: str, value: Any) -> dict[str, Any]:
    value = value if isinstance(value, dict) else {}
    middle = value.get("nominal", value.get("median"))
    return {
        f"{name}_low": value.get("low"),
        f"{name}": middle,
        f"{name}_high": value.get("high"),
    }


_LADDER = (
    *("system", "kind", "parameters", "tokens", "seeds", "chips"),
    *("bits_per_byte_low", "bits_per_byte", "bits_per_byte_high", "bill"),
    *("J_per_token_low", "J_per_token", "J_per_token_high", "J_per_byte", "latency_s"),
)


def _ladder(systems: list[dict]) -> Cells:
    for s in systems:
        quality = s.get("quality") or {}
        for name, bill in (s.get("bills") or {}).items():
            yield {
                "system": s["name"],
                "kind": s.get("kind"),
                "parameters": s.get("parameters"),
                "tokens": s.get("tokens"),
                "seeds": len(s.get("seeds") or [quality]),
                "chips": quality.get("n_chips"),
                **_three("bits_per_byte", quality),
                "bill": name,
                **_three("J_per_token", bill.get("total_J")),
                "J_per_byte": ((s.get("J_per_byte") or {}).get(name) or {}).get(
                    "nominal"
                ),
                "latency_s": (s.get("least_latency_s") or {}).get(name)
                or s.get("latency_s"),
            }


_RATIOS = (
    *("system", "machine", "batch", "relation", "ratio_low", "ratio", "ratio_high"),
    *("seeds_low", "seeds_high", "seeds_prices_low", "seeds_prices_high"),
    *("inside", "above", "below", "all_prices_low", "all_prices_high"),
    *("opponent_J_low", "opponent_J", "opponent_J_high", "service"),
)


def _ratios(physical: list[dict]) -> Cells:
    for s in physical:
        for machine, main in (s.get("ratios") or {}).items():
            others = (main.get("other_batches") or {}).items()
            for name, ratio in ((machine, main), *((f"G, {n}", r) for n, r in others)):
                interval = ratio.get("interval") or {}
                runs = ratio.get("corner_runs") or {}
                yield {
                    "system": s["name"],
                    "machine": name,
                    "batch": ratio.get("batch"),
                    "relation": ratio.get("relation"),
                    **_three("ratio", ratio),
                    "seeds_low": interval.get("low"),
                    "seeds_high": interval.get("high"),
                    "seeds_prices_low": interval.get("low_all_prices"),
                    "seeds_prices_high": interval.get("high_all_prices"),
                    **{key: interval.get(key) for key in ("inside", "above", "below")},
                    "all_prices_low": runs.get("low"),
                    "all_prices_high": runs.get("high"),
                    **_three("opponent_J", ratio.get("opponent_J")),
                    "service": (ratio.get("service") or {}).get("said"),
                }


_FACTORS = ("factor_low", "factor", "factor_high")
_WATERFALL = (
    *("system", "machine", "relation", "step"),
    *_FACTORS,
    *("after_J_low", "after_J", "after_J_high", "what"),
)


def _waterfall(physical: list[dict]) -> Cells:
    for s in physical:
        for machine, fall in (s.get("waterfall") or {}).items():
            shared = {
                "system": s["name"],
                "machine": machine,
                "relation": fall.get("relation"),
            }
            yield shared | {"step": "start"} | _three("after_J", fall.get("from_J"))
            for step in fall.get("steps") or []:
                yield {
                    **shared,
                    "step": step["name"],
                    **{key: step.get(key) for key in _FACTORS},
                    **_three("after_J", step["after_J"]),
                    "what": step.get("what"),
                }
            for each in fall.get("left_out") or []:
                said = {"step": each["name"], "what": f"left out: {each['reason']}"}
                yield shared | said


_RULERS = (
    *("system", "part", "kind", "spent_J", "samples", "snr", "noise_floor_J"),
    *("over_noise", "erased", "over_landauer"),
)
_AMDAHL = ("system", "line", "J_low", "J", "J_high", "share", "gain_if_free")


def _rulers(physical: list[dict]) -> Cells:
    for s in physical:
        for row in s.get("rulers") or []:
            yield {"system": s["name"]} | {k: row.get(k) for k in _RULERS[1:]}


def _amdahl(physical: list[dict]) -> Cells:
    for s in physical:
        for row in s.get("amdahl") or []:
            yield {
                "system": s["name"],
                "line": row["line"],
                **_three("J", row.get("energy_J")),
                "share": row.get("share"),
                "gain_if_free": row.get("gain_if_free"),
            }


_NEXT = ("system", "line", "removed_J", "left_J", "gain", "machine", "ratio")


def _next(physical: list[dict]) -> Cells:
    for s in physical:
        for row in s.get("next_to_shrink") or []:
            plain = {key: row[key] for key in ("line", "removed_J", "left_J", "gain")}
            for machine, ratio in (row.get("ratios") or {None: None}).items():
                found = {"machine": machine, "ratio": ratio}
                yield {"system": s["name"], **plain, **found}


_TORNADO = (
    *("system", "machine", "price", "lines", "sides", "low", "high", "swing"),
    *("relation_at_low", "ratio_at_low", "relation_at_high", "ratio_at_high"),
    *("confidence", "source"),
)


def _tornado(physical: list[dict]) -> Cells:
    same = ("price", "sides", "low", "high", "swing", "confidence", "source")
    for s in physical:
        for machine, rows in (s.get("tornado") or {}).items():
            for row in rows:
                found = {key: row.get(key) for key in same}
                for end in ("low", "high"):
                    there = row.get(f"ratio_{end}") or {}
                    found[f"relation_at_{end}"] = there.get("relation")
                    found[f"ratio_at_{end}"] = there.get("nominal")
                lines = "; ".join(row.get("lines") or [])
                yield {"system": s["name"], "machine": machine, "lines": lines, **found}
