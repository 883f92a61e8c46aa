"""What a report says: the sentences, the choices and the tables behind its page."""

import re
from typing import Any

import numpy as np

from evals import bill_plots, gain_plots, plots
from evals.plots import interval, times
from evals.waterfall import STEPS
from physnn.energy.prices import OVERHEAD
from physnn.units import readable

# The three machines of about 2030 on which transformers are billed.
MACHINES = {
    "G": "GPU of 2030, batch 8",
    "A": "ASIC of 2030, weights in SRAM",
    "R": "ASIC of 2030, weights in mask ROM",
}
# Their price lists.
MACHINE_OF = {"gpu2030": "G", "sram2030": "A", "rom2030": "R"}


def view(results: dict) -> dict[str, Any]:
    """Everything the template prints; `results` as in `evals.report`."""
    systems = [
        s | {"bills": {MACHINE_OF.get(m, m): b for m, b in s["bills"].items()}}
        if s.get("bills")
        else s
        for s in results["systems"]
    ]
    every = [s for s in systems if s.get("kind") == "physical"]
    physical = every[0] if every else None
    ratios = _ratios(physical)
    transformers = [s for s in systems if s.get("kind") == "transformer"]
    machines = _machines(transformers, ratios)
    own, opponent = own_bill(physical), nearest(physical, transformers)
    amdahl = (physical or {}).get("amdahl") or (own or {}).get("amdahl") or []
    gains = [_gain(i, s) for i, s in enumerate(every)]
    return {
        "title": results.get("title") or "physnn report",
        "headline": headline(physical, own, ratios),
        "verdict": verdict(ratios),
        "others": [headline(s, own_bill(s), _ratios(s)) for s in every[1:]],
        "gains": gains,
        "projection": results.get("projection") or {},
        "short": MACHINES,
        "machines": {m: _describe(m, transformers) for m in machines},
        "ratios": {m: ratios[m] for m in machines if m in ratios},
        "own": own or {},
        "systems": _rows(systems, machines),
        "panels": _panels(systems, own, amdahl, machines, ratios),
        "chips": _chips(physical),
        "amdahl": amdahl,
        "sides": _sides(own, opponent, machines),
        "side_totals": [(own or {}).get("total_J")]
        + [
            ((opponent or {}).get("bills") or {}).get(m, {}).get("total_J")
            for m in machines
        ],
        "physical": physical,
        "opponent": opponent,
        "bills": [
            (s, machine, bill | {"rows": merged(bill.get("rows") or [])})
            for s in systems
            for machine, bill in (s.get("bills") or {}).items()
        ],
        "zeros": _zeros([s for s in (physical, opponent) if s]),
        "sources": _sources(systems),
        "verify": results.get("verify") or [],
        "notes": results.get("notes") or [],
        "data": results.get("data") or {},
        "provenance": results.get("provenance") or {},
        "asides": asides,
        "OVERHEAD": OVERHEAD,
    }


def _ratios(system: dict | None) -> dict[str, dict]:
    found = (system or {}).get("ratios") or {}
    return {
        MACHINE_OF.get(str(m), str(m)): ratio for m, ratio in found.items() if ratio
    }


def _gain(index: int, system: dict) -> dict[str, Any]:
    """Where the ratios of one physical system come from, and what would move them."""
    name, ratios = system["name"], _ratios(system)
    falls, swings = system.get("waterfall") or {}, system.get("tornado") or {}
    machines = list(ratios) or ["G"]
    return {
        "name": name,
        "ratios": ratios,
        "waterfalls": [
            gain_plots.waterfall(f"plot-waterfall-{index}-{m}", m, falls.get(m), name)
            for m in machines
        ],
        "steps": _steps(falls),
        "left_out": _left_out(falls),
        "bounds": {m: at_least(ratio) for m, ratio in ratios.items()},
        "next": system.get("next_to_shrink") or [],
        "tornados": [
            gain_plots.tornado(
                f"plot-tornado-{index}-{m}", m, swings.get(m), ratios.get(m) or {}
            )
            for m in machines
        ],
        "swings": swings,
    }


def _steps(falls: dict[str, dict]) -> list[dict[str, Any]]:
    """Each factor once, with its value on every machine, in the order of the fullest.

    What the step means is said in the words of the first machine that has it.
    """
    names: dict[str, str] = {}
    for fall in sorted(falls.values(), key=lambda f: -len(f.get("steps") or [])):
        for step in fall.get("steps") or []:
            names.setdefault(step["name"], step.get("what", ""))
    order = [n for n in STEPS if n in names] + [n for n in names if n not in STEPS]
    return [
        {
            "name": name,
            "what": names[name],
            "factors": {
                m: next((s["factor"] for s in f["steps"] if s["name"] == name), None)
                for m, f in falls.items()
            },
            "ranges": {
                m: next(
                    (
                        (s["factor_low"], s["factor_high"])
                        for s in f["steps"]
                        if s["name"] == name and "factor_low" in s
                    ),
                    None,
                )
                for m, f in falls.items()
            },
        }
        for name in order
    ]


def _left_out(falls: dict[str, dict]) -> list[tuple[str, str, str]]:
    """(factor, machines, reason): each reason once, in the order of the steps."""
    found: dict[tuple[str, str], list[str]] = {}
    for machine, fall in falls.items():
        for each in fall.get("left_out") or []:
            found.setdefault((each["name"], each["reason"]), []).append(machine)
    place = lambda name: STEPS.index(name) if name in STEPS else len(STEPS)
    ordered = sorted(found.items(), key=lambda item: place(item[0][0]))
    return [(name, ", ".join(on), reason) for (name, reason), on in ordered]


def own_bill(system: dict | None) -> dict | None:
    """A system's bill on its own hardware: the first that is not for G, A or R."""
    bills = (system or {}).get("bills") or {}
    own = [name for name in bills if name not in MACHINES] or list(bills)
    return bills[own[0]] if own else None


def nearest(physical: dict | None, transformers: list[dict]) -> dict | None:
    """The billed transformer closest in quality, to stand beside the physical model."""
    mine = interval((physical or {}).get("quality"))
    billed = [s for s in transformers if s.get("bills")]
    scored = [s for s in billed if interval(s.get("quality"))]
    if mine is None or not scored:
        return billed[-1] if billed else None
    return min(scored, key=lambda s: abs(s["quality"]["median"] - mine[1]))


def headline(physical: dict | None, own: dict | None, ratios: dict) -> str:
    """The ratio against each machine in one sentence, or why there is none."""
    if physical is None:
        return "No ratio: this run has no physical model."
    quality = interval(physical.get("quality"))
    energy = interval((own or {}).get("total_J"))
    score = f"{quality[1]:.3f} bits/byte" if quality else "unknown quality"
    price = (
        f"{readable(float(energy[1]), 'J')} per token" if energy else "an unknown price"
    )
    start = f"{physical['name']}: {score} at {price}."
    claims = [
        f"{at_least(ratio)}{times(span[1])} the energy on {machine}"
        f" ({times(span[0])} to {times(span[2])})"
        for machine, ratio in ratios.items()
        if (span := interval(ratio))
    ]
    if not claims:
        said = [f"{m}: {r['verdict']}" for m, r in ratios.items() if r.get("verdict")]
        return " ".join([start, "No ratio at equal quality was found.", *said])
    *most, last = claims
    joined = f"{', '.join(most)} and {last}" if most else last
    return f"{start} A transformer of equal quality needs {joined}."


def at_least(ratio: dict) -> str:
    """`≥ ` before a ratio that is only a bound, because the ladder ends there."""
    return "≥ " if ratio.get("relation") == ">=" else ""


def verdict(ratios: dict) -> str:
    """Against which machines the gain survives every price in its interval."""
    sides: dict[str, list[str]] = {"cheaper": [], "open": [], "dearer": [], "none": []}
    for machine, ratio in ratios.items():
        span = interval(ratio)
        if span is None:
            sides["none"].append(machine)
        else:
            side = "cheaper" if span[0] > 1 else "dearer" if span[2] < 1 else "open"
            sides[side].append(machine)
    words = {
        "cheaper": "Cheaper than {} at every price assumed.",
        "open": "Undecided against {}: the prices overlap.",
        "dearer": "Dearer than {} at every price assumed.",
        "none": "Not comparable with {}: outside the ladder.",
    }
    return " ".join(words[k].format(", ".join(v)) for k, v in sides.items() if v)


def asides(ratio: dict) -> list[str]:
    """What else a ratio was computed for: other batches, the ends of the quality."""
    said = [
        f"{name}: {at_least(each)}{times(each['nominal'])}"
        for name, each in (ratio.get("other_batches") or {}).items()
        if each.get("nominal") is not None
    ]
    ends = ratio.get("at_quality") or {}
    found = [
        f"{at_least(ends[end])}{times(ends[end]['nominal'])}"
        if (ends.get(end) or {}).get("nominal") is not None
        else "below ladder"
        for end in ("low", "high")
        if end in ends
    ]
    if len(set(found)) > 1:
        said.append(f"best to worst chips or seeds: {' to '.join(found)}")
    return said


def merged(rows: list[dict]) -> list[dict]:
    """Rows of like parts as one (`mixer0.cell`, `mixer1.cell`: `mixer*.cell`)."""
    found: dict[tuple, dict] = {}
    for row in rows:
        part = re.sub(r"\d+(?=\.|$)", "*", str(row.get("part") or ""))
        price = interval(row.get("price_J"))
        key = (row.get("line"), part, row.get("event"), price, row.get("fact"))
        if key not in found:
            found[key] = row | {"part": part}
            continue
        seen, energy = found[key], interval(row.get("energy_J"))
        before = interval(seen.get("energy_J"))
        if energy and before:
            low, nominal, high = (float(v) for v in np.add(before, energy))
            seen["energy_J"] = {"low": low, "nominal": nominal, "high": high}
        if seen.get("count") is not None and row.get("count") is not None:
            seen["count"] += row["count"]
    return list(found.values())


def _machines(transformers: list[dict], ratios: dict) -> list[str]:
    found = dict.fromkeys(ratios)
    for system in transformers:
        found |= dict.fromkeys(system.get("bills") or {})
    known = [m for m in MACHINES if m in found]
    return known + [m for m in found if m not in MACHINES]


def _describe(machine: str, transformers: list[dict]) -> str:
    for system in transformers:
        bill = (system.get("bills") or {}).get(machine) or {}
        if bill.get("description"):
            return str(bill["description"]).removeprefix(f"{machine}: ").rstrip(".")
    return MACHINES.get(machine, machine)


def _rows(systems, machines: list[str]) -> list[dict]:
    """The lines of the summary table."""
    color, rows = plots.colors(systems), []
    for system in systems:
        bills = system.get("bills") or {}
        digital = any(m in bills for m in machines)
        own = None if digital else (own_bill(system) or {}).get("total_J")
        totals = [(bills.get(m) or {}).get("total_J") for m in machines]
        first = next(filter(None, map(interval, (own, *totals))), None)
        rows.append(
            {
                "system": system,
                "color": color[system["name"]],
                "own": own,
                "totals": totals,
                "ratios": [_ratios(system).get(m) for m in machines],
                "J_per_byte": first[1] / (system.get("bytes_per_token") or 1)
                if first
                else None,
            }
        )
    return rows


def _panels(systems, own, amdahl, machines: list[str], ratios: dict):
    """Every plot of the page by its short name."""
    color = plots.colors(systems)
    ladders: dict[str, list] = {}
    points: list[tuple] = []
    for system in systems:
        bills, quality = system.get("bills") or {}, interval(system.get("quality"))
        if quality and system.get("kind") == "transformer":
            for m in machines:
                if energy := interval((bills.get(m) or {}).get("total_J")):
                    ladders.setdefault(m, []).append((system, quality, energy))
        elif quality and (energy := interval((own_bill(system) or {}).get("total_J"))):
            points.append((system, quality, energy))
    points.sort(key=lambda point: point[0].get("kind") != "physical")
    name = next((s["name"] for s in systems if s.get("kind") == "physical"), None)
    tone = color[name] if name is not None else plots.INK
    panels = (
        plots.quality_against_energy(ladders, points, ratios, systems),
        plots.learning_curves(systems),
        plots.chips(systems),
        bill_plots.amdahl(amdahl),
        bill_plots.bill_lines(own, tone),
        bill_plots.bill_parts(own),
    )
    return {p.name.removeprefix("plot-").replace("-", "_"): p for p in panels}


def _chips(physical: dict | None) -> list[tuple[str, float, float]]:
    """Name, bits per byte and distance from the median of each chip of each seed."""
    seeds = (physical or {}).get("seeds") or [(physical or {}).get("quality") or {}]
    span = interval((physical or {}).get("quality"))
    found = [
        (f"seed {k}, chip {i}" if len(seeds) > 1 else str(i), value, value - span[1])
        for k, quality in enumerate(seeds, 1)
        for i, value in enumerate(quality.get("values") or [], 1)
        if span and value is not None
    ]
    return found if len(found) > 1 else []


def _sides(own: dict | None, opponent: dict | None, machines: list[str]) -> dict:
    """Line -> energies of the physical model and of the opponent on each machine."""
    bills = [own] + [((opponent or {}).get("bills") or {}).get(m) for m in machines]
    lines: dict[str, list] = {}
    for i, bill in enumerate(bills):
        sums = bill_plots.by_line(bill or {})
        zeros = {z["line"]: z["reason"] for z in (bill or {}).get("zeros") or []}
        for line in (*sums, *zeros):
            cells = lines.setdefault(line, [None for _ in bills])
            cells[i] = sums.get(line) or {"zero": zeros[line]}
    # Lines on which nobody spends come last.
    return dict(sorted(lines.items(), key=lambda item: not any(map(_spends, item[1]))))


def _spends(cell) -> bool:
    return isinstance(cell, tuple)


def _zeros(systems: list[dict]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Of each bill, what costs nothing: all lines and events of one reason together."""
    found = []
    for system in systems:
        for machine, bill in (system.get("bills") or {}).items():
            reasons: dict[str, list[str]] = {}
            for zero in bill.get("zeros") or []:
                reasons.setdefault(zero["reason"], []).append(zero["line"])
            for zero in bill.get("zero_events") or []:
                what = f"{zero['count']:.3g} {zero['event']}"
                reasons.setdefault(zero["reason"], []).append(what)
            if reasons:
                rows = [(", ".join(what), reason) for reason, what in reasons.items()]
                found.append((f"{system['name']} on {machine}", rows))
    return found


def _sources(systems: list[dict]) -> list[dict]:
    """Every fact a bill relied on, once, with the bills that use it."""
    found: dict[tuple, dict] = {}
    for system in systems:
        for machine, bill in (system.get("bills") or {}).items():
            for row in bill.get("rows") or []:
                fact, source = row.get("fact"), row.get("source")
                if fact is None and source is None:
                    continue
                entry = found.setdefault(
                    (fact, source),
                    {"fact": fact, "source": source, "bills": []}
                    | {"confidence": row.get("confidence")},
                )
                if machine not in entry["bills"]:
                    entry["bills"].append(machine)
    return sorted(found.values(), key=lambda e: (str(e["fact"]), str(e["source"])))
