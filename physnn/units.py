"""Physical constants (SI, CODATA 2018 exact values) and numbers made readable."""

import math

BOLTZMANN_J_PER_K = 1.380649e-23
ELEMENTARY_CHARGE_C = 1.602176634e-19

_PREFIXES = {
    -18: "a",
    -15: "f",
    -12: "p",
    -9: "n",
    -6: "µ",
    -3: "m",
    0: "",
    3: "k",
    6: "M",
    9: "G",
    12: "T",
}


def thermal_energy_J(temperature_K):
    """k_B·T [J]. Never squared in float32: (k_B·T)² underflows to zero there."""
    return BOLTZMANN_J_PER_K * temperature_K


def thermal_voltage_V(temperature_K):
    """U_T = k_B·T/q [V]."""
    return BOLTZMANN_J_PER_K / ELEMENTARY_CHARGE_C * temperature_K


def readable(value: float, unit: str) -> str:
    """`readable(1.3e-12, "J")` is `"1.3 pJ"`: three digits and an SI prefix."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    value = float(f"{value:.3g}")  # rounded first: 999.9e-12 is 1 n, not 1e+03 p
    exponent = 3 * math.floor(math.log10(abs(value)) / 3 + 1e-12)
    exponent = min(max(exponent, min(_PREFIXES)), max(_PREFIXES))
    return f"{value / 10.0**exponent:.3g} {_PREFIXES[exponent]}{unit}"
