"""Results such as a quickstart writes: one physical model, three transformers."""

import numpy as np


def span(nominal, low=0.5, high=2.0):
    return {"low": nominal * low, "nominal": nominal, "high": nominal * high}


def row(line, event, part, count, unit, price_J, fact, confidence="medium"):
    return {
        "part": part,
        "line": line,
        "event": event,
        "count": count,
        "unit": unit,
        "price_J": span(price_J),
        "energy_J": span(price_J * count),
        "fact": fact,
        "source": f"Source of {fact}, 2024",
        "confidence": confidence,
    }


def bill(rows, name, description, zeros=()):
    total = sum(r["energy_J"]["nominal"] for r in rows)
    return {
        "list": name,
        "description": description,
        "rows": rows,
        "zeros": [{"line": line, "reason": reason} for line, reason in zeros],
        "total_J": span(total),
    }


def ruler(part, kind, spent_J, over_noise):
    return {
        "part": part,
        "kind": kind,
        "spent_J": spent_J,
        "samples": 64.0,
        "snr": None if over_noise is None else 1e5,
        "erased": 0.0 if over_noise is None else 530.0,
        "temperature_K": 300.0,
        "noise_floor_J": spent_J / over_noise if over_noise else 0.0,
        "over_noise": over_noise,
        "over_landauer": None if over_noise is None else 3.1e6,
    }


def physical_bill():
    rows = []
    for block in range(4):
        for part, cause, charge in (
            ("input", "amplifiers", 2.1e-10),
            ("input", "input lines", 0.9e-10),
            ("output", "amplifiers", 1.6e-10),
            ("gate", "translinear loop", 0.3e-10),
        ):
            path = f"{'mixer' if part != 'gate' else 'channel'}{block}.{part}.{cause}"
            args = (path, charge, "C", 0.9, "analog.supply")
            rows.append(row("physical core", "supply_charge_C", *args, "high"))
    conversion = ("head.logits", 256, "sample", 1.5e-12, "adc.rule.8b")
    rows += [
        row("output head", "adc_conversion_8b", *conversion),
        row("embedding", "rom_bit", "embedding", 1024, "bit", 2e-15, "mem.rom.bit.est"),
        row("sampling", "compare", "sampling", 256, "op", 3e-14, "dig.7.int32.add"),
        row("host", "host_token", "", 1, "token", 4e-10, "ovh.host.token", "low"),
        row("leakage", "stored_bit_s", "weights", 1.8, "bit·s", 1e-12, "leak.sram"),
    ]
    zeros = [
        ("KV cache and state", "State is the charge of the capacitors themselves."),
        ("chip to chip", "The model fits one chip."),
        ("couplers", "No coupled oscillators."),
    ]
    return bill(rows, "analog28", "28 nm analog chip, one token per microsecond", zeros)


def transformer_bill(machine, parameters):
    scale = {"G": 1.0, "A": 0.06, "R": 0.04}[machine]
    description = {
        "G": "GPU of about 2030, single user, batch 8",
        "A": "SRAM-resident ASIC of about 2030",
        "R": "mask-ROM ASIC of about 2030",
    }[machine]
    rows = [
        row("arithmetic", "mac", "blocks", parameters, "op", 7e-14, "dig.7.int8.mac"),
        row("weights", "weight_byte", "blocks", parameters, "byte", 2e-12 * scale, "w"),
        row("KV cache and state", "cache_byte", "blocks", 65536, "byte", 1e-12, "kv"),
        row("host", "host_token", "", 1, "token", 4e-10, "ovh.host.token", "low"),
    ]
    zeros = [("converters", "Everything is digital.")]
    return bill(rows, machine, description, zeros)


def curve(end, speed, n=400, noise=0.05):
    rng = np.random.default_rng(int(speed * 1000))
    tokens = np.linspace(0, 2e6, n + 1)[1:]
    bits = end + 5.5 * np.exp(-((tokens / 2e6 * 9) ** 0.5) * speed)
    bits = bits + noise * rng.normal(size=n)
    return [
        {"tokens": int(t), "bits_per_byte": float(b)}
        for t, b in zip(tokens, bits, strict=True)
    ]


def gains(own_J):
    """What `evals.energy.compare` says of the physical model at equal quality."""
    opponents = {m: transformer_bill(m, 350_000)["total_J"] for m in "GAR"}
    return {
        "ratios": {
            m: span(e["nominal"] / own_J, 0.4, 2.5)
            | {
                "relation": "=",
                "verdict": "at equal quality, interpolated between 2.520 and 2.110.",
                "opponent_J": e,
                "batch": 8.0 if m == "G" else 1.0,
                "service": {
                    "class": "throughput of 8 users, against one user",
                    "said": "one user, 1 µs per token, against 8 users at once",
                },
                "J_per_byte": {"ours": span(own_J), "opponent": e},
                "corner_runs": {"low": e["low"] / own_J, "high": e["high"] / own_J},
                "interval": {
                    "low": 0.9 * e["nominal"] / own_J,
                    "high": None,
                    "low_all_prices": 0.3 * e["nominal"] / own_J,
                    "high_all_prices": None,
                    **{"inside": 0.96, "above": 0.04, "below": 0.0},
                    **{"ends": "at least 9x", "ends_all_prices": "at least 3x"},
                    "said": "the middle 95% of 1000 resamples of 1 seed of 8 chips",
                },
                "at_quality": {
                    "low": {"relation": "=", "nominal": 1.05 * e["nominal"] / own_J},
                    "high": {"relation": "=", "nominal": 0.95 * e["nominal"] / own_J},
                },
            }
            for m, e in opponents.items()
        },
        "rulers": [
            ruler("stack.blocks*.body.inputs", "ChargeMac", 2.1e-10, 48.0),
            ruler("agc", "AutomaticGain", 3e-13, None),
        ],
        "amdahl": [
            {"line": "physical core", "share": 0.52, "gain_if_free": 1 / 0.48},
            {"line": "host", "share": 0.24, "gain_if_free": 1 / 0.76},
            {"line": "output head", "share": 0.23, "gain_if_free": 1 / 0.77},
            {"line": "sampling", "share": 0.01, "gain_if_free": 1 / 0.99},
        ],
        "next_to_shrink": [
            {
                "line": "physical core",
                "removed_J": 0.52 * own_J,
                "left_J": 0.48 * own_J,
                "gain": 1 / 0.48,
                "ratios": {m: 800.0 for m in "GAR"},
            },
            {
                "line": "host",
                "removed_J": 0.48 * own_J,
                "left_J": 0.0,
                "gain": None,
                "ratios": dict.fromkeys("GAR"),
            },
        ],
        "waterfall": {
            m: {
                "relation": "=",
                "from_J": e,
                "to_J": span(own_J),
                "ratio": e["nominal"] / own_J,
                "steps": [
                    {
                        "name": "fewer parameter touches",
                        "what": "our weights",
                        "after_J": span(1.25 * e["nominal"]),
                        "factor": 0.8,
                        **{"factor_low": 0.7, "factor_high": 0.9},
                    },
                    {
                        "name": "no weight movement",
                        "what": "none is read",
                        "after_J": span(own_J),
                        "factor": 1.25 * e["nominal"] / own_J,
                    },
                ],
                "left_out": [{"name": "noise tolerance", "reason": "training only"}],
            }
            for m, e in opponents.items()
        },
        "tornado": {
            m: [
                {
                    "price": fact,
                    "lines": ["arithmetic"],
                    "sides": sides,
                    "confidence": "low",
                    "source": f"Source of {fact}",
                    **{"low": 0.5, "high": 2.0, "swing": ends[0] / ends[1]},
                    "ratio_low": {
                        "relation": "=",
                        "nominal": ends[0] * e["nominal"] / own_J,
                    },
                    "ratio_high": {
                        "relation": "=",
                        "nominal": ends[1] * e["nominal"] / own_J,
                    },
                }
                for fact, sides, ends in (
                    ("leak.7.sram", "physical", (1.5, 0.4)),
                    ("ovh.vr", "both", (1.1, 0.9)),
                )
            ]
            for m, e in opponents.items()
        },
    }


def projection():
    sizes = [
        {
            "parameters": size,
            "beyond": size / 886_272,
            "bits": span(1.4, 0.6, 1.3),
            "transformer_J": {m: span(size * 1e-12) for m in "GAR"},
            "physical_parameters": None,
            "ratio": None,
        }
        for size in (1e9, 8e9, 1e11)
    ]
    return {
        "label": "Projection, not a result: nothing of this size was trained.",
        "tokens": 2_000_000,
        "n_rungs": 3,
        "largest": 886_272.0,
        "sizes": sizes,
        "reason": "No ratio is projected.",
    }


def results():
    """What a quickstart finds: one physical model against three transformers."""
    rng = np.random.default_rng(5)
    values = [float(v) for v in 2.231 + 0.008 * rng.normal(size=8)]
    systems = [
        {
            "name": "RC state space",
            "kind": "physical",
            "parameters": 301_440,
            "tokens": 2_000_000,
            "seconds": 131.0,
            "tokens_per_s": 15_267.0,
            "learning_rate": 3e-3,
            "curve": curve(2.18, 1.5),
            "validation": curve(2.2, 1.5, n=6, noise=0.0),
            "quality": {
                "median": float(np.median(values)),
                "low": min(values),
                "high": max(values),
                "coverage": 0.992,
                "n_chips": 8,
                "values": values,
            },
            "latency_s": 1e-6,
            "bills": {"analog28": physical_bill()},
        }
    ]
    for name, parameters, bits in (
        ("transformer 0.1 M", 99_328, 2.52),
        ("transformer 0.3 M", 298_752, 2.27),
        ("transformer 0.9 M", 886_272, 2.11),
    ):
        systems.append(
            {
                "name": name,
                "kind": "transformer",
                "parameters": parameters,
                "tokens": 2_000_000,
                "seconds": 100.0,
                "tokens_per_s": 20_000.0,
                "learning_rate": 3e-3,
                "curve": curve(bits - 0.1, 1.3),
                "validation": curve(bits - 0.05, 1.3, n=6, noise=0.0),
                "quality": {
                    "median": bits,
                    "low": bits,
                    "high": bits,
                    "n_chips": 1,
                    "values": [bits],
                },
                "latency_s": None,
                "least_latency_s": {"G": 2e-8, "A": 5.4e-7, "R": None},
                "bills": {m: transformer_bill(m, parameters) for m in "GAR"},
            }
        )
    systems[0] |= gains(systems[0]["bills"]["analog28"]["total_J"]["nominal"])
    return {
        "title": "physnn quickstart",
        "provenance": {
            "command": "physnn quickstart --seed 0",
            "commit": "0123abcd",
            "version": "0.1.0",
            "machine": "2 CPU cores, x86_64",
            "seeds": [0],
            "wall_s": 512.3,
        },
        "data": {
            "name": "Python 3.11 standard library",
            "train_bytes": 8_200_000,
            "validation_bytes": 410_000,
            "test_bytes": 430_000,
        },
        "systems": systems,
        "projection": projection(),
        "verify": [
            {
                "name": "MAC column",
                "measured": 0.0021,
                "limit": 0.01,
                "status": "pass",
                "seconds": 1.4,
            },
            {
                "name": "RC state",
                "measured": None,
                "limit": 0.01,
                "status": "skipped: ngspice is not installed",
                "seconds": None,
            },
        ],
        "notes": ["Both sides trained for minutes only; neither is converged."],
    }
