"""Converters: successive-approximation ADC and capacitive DAC."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from circuits.converter_cells import DECIDE, sar_netlist
from circuits.converter_floor import dac_floor_J, floor_J
from circuits.converter_parts import (
    check_sizes,
    drawn_unit_F,
    fixed_bank,
    plain,
    resolved,
    straight_through,
)
from physnn.bank import Bank
from physnn.circuit import AbstractMemorylessCircuit
from physnn.energy.events import Event
from physnn.export import cells
from physnn.export.compose import array
from physnn.export.netlist import Device, Netlist, Parameter
from physnn.keys import stream
from physnn.noise import (
    bowed,
    coupled,
    decided_sign,
    metastable_window,
    thermal_noise,
)
from physnn.process import Process
from physnn.straight_through import quantize

# Load of a comparator's regenerative node: sets its noise and its charge. 0.64 mV.
COMPARATOR_F = 20e-15
# Drawn area of a comparator's input pair: sets its offset.
COMPARATOR_PAIR_M2 = 4e-12


class SarConverter(AbstractMemorylessCircuit):
    """A successive-approximation ADC per channel: the code nearest to a held sample.

        x ──╱──┬── r ──▷ comparator ── s_k ──┐       r_0 = x + offset + n_sample
               ═ C_0, C_1 … C_(B−2), dummy   │       s_k = sign(r_k + n_k)
               └──────── switch C_k ─────────┘       r_(k+1) = r_k − s_k·C_k/C_Σ

        y = Σ_k s_k·2^−(k+1), k = 0 … B−1;     LSB = 2^(1−B)
        Var n_sample = thermal_noise·kT/C_Σ,   Var n_k = thermal_noise·kT/C_comparator
        E(y − x)² ≈ LSB²/12 + Var n_sample + Var n_k + (2/3)·σ_unit²/2^(B−1)

    The conversion is bit-true: every decision is made, with its own noise, on what the
    capacitors of this chip left of the sample, and the digital code is read with the
    weights as designed. The first decision switches no capacitor (monotonic switching),
    so 2^(B−1) units per half make B bits. Inside ±1 the gradient is the identity.

    It bills what it consists of, so **no `adc_conversion` event**, which is a whole
    converter at a surveyed price: charge of the array, of the comparator and of the
    driver of x; flip-flops of the sequencer. Where that charge is less than the
    best converters were measured to take (`floor_J`), `measured floor` bills the rest,
    and the flip-flops on top. At 28 nm the sum lies inside the range of the survey
    (tested). Does not bill: a reference buffer.

    The `size` of its capacitors can be trained: C_Σ is e^size times as large. Above
    zero units and comparators grow, and noise and mismatch shrink; below it units are
    halved, and each time a bit and its decision go. The slope of y sees what is sampled
    and, below zero, all other error as if it followed the step of the code.

    Assumes: the two halves are one array of twice the area; complete settling. The law
    of E(y − x)² holds below 0.3 LSB of comparator noise. Does not model: noise and
    settling of the reference, kickback, injection of the switches.

    References: Liu et al. 2010, "A 10-bit 50-MS/s SAR ADC with a monotonic capacitor
    switching procedure", DOI 10.1109/JSSC.2010.2042254; van Elzakker et al. 2010, DOI
    10.1109/JSSC.2010.2043893; noise of the comparator: Nuzzo et al. 2008, DOI
    10.1109/TCSI.2008.917991.
    """

    capacitor: Bank
    offset: Bank
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    bits: int = eqx.field(static=True)
    unit_F: float = eqx.field(static=True)
    comparator_F: float = eqx.field(static=True)

    def __init__(
        self,
        n: int,
        *,
        bits: int = 8,
        process: Process,
        unit_F: float | None = None,
        comparator_F: float = COMPARATOR_F,
    ):
        """`unit_F`: the unit capacitor [F]; None is the smallest of the process.

        Raises `ValueError` for bits outside 2..14, no channel, or a capacitor that is
        not positive or smaller than the process can draw.
        """
        check_sizes(n, bits, comparator_F=comparator_F)
        self.n_in = self.n_out = n
        self.bits, self.comparator_F = bits, comparator_F
        self.unit_F = drawn_unit_F(unit_F, process)
        units = [2.0**k for k in range(bits - 2, -1, -1)] + [1.0]
        self.capacitor = fixed_bank(units, n, self.unit_F, process, sized=True)
        self.offset = Bank(
            jnp.zeros(n),
            kind="threshold",
            unit="full scale",
            area_m2=COMPARATOR_PAIR_M2,
        )

    def code_bits(self) -> Float[Array, ""] | int:
        """Bits of the code at the size of the capacitors: `bits` or fewer.

        The gradient does not see that they are whole.
        """
        units = self.capacitor.units()
        return self.bits if isinstance(units, int) else jnp.log2(units) + 2

    def total_F(self) -> Float[Array, ""] | float:
        """C_Σ as designed, of one half [F]."""
        units = 2 * plain(self.capacitor.units())
        return self.unit_F * units * plain(self.capacitor.area_factor())

    @property
    def resolution(self) -> int:
        """`code_bits` of a converter whose size is known."""
        return round(float(self.code_bits()))

    @property
    def lsb(self) -> float:
        """One step of the code, as a fraction of full scale."""
        return 2.0 ** (1 - self.resolution)

    def weights(self) -> Float[Array, "bits_less_1 n"]:
        """C_k / C_Σ of this chip, the largest first."""
        units = self.capacitor.realized().reshape(self.bits, self.n_out)
        return units[:-1] / jnp.sum(units, axis=0)

    def apply(self, x, *, process, key):
        weights, bits = self.weights(), self.code_bits()
        step = 2.0 ** (1 - jnp.asarray(bits, x.dtype))
        grown = self.capacitor.area_factor()
        sampled = process.thermal_variance(self.unit_F)
        sampled = sampled / (2 * self.capacitor.units() * grown)
        decided = process.thermal_variance(self.comparator_F)
        decided = jax.lax.stop_gradient(decided / grown)
        held = jax.lax.stop_gradient(bowed(x, lsb=step, process=process))
        r = thermal_noise(held, sampled, process=process, key=stream(key, "sample"))
        noise = r - held
        r = jax.lax.stop_gradient(r + self.offset.realized())
        undecided = metastable_window(process)
        code = jnp.zeros_like(r)
        for k in range(self.bits):
            seen = thermal_noise(
                r, decided, process=process, key=stream(key, f"decision{k}")
            )
            sign = decided_sign(seen, undecided, stream(key, f"undecided{k}"))
            # Bits that the size has taken are not decided.
            code = code + jnp.where(k < bits - 0.5, sign * 2.0 ** -(k + 1), 0.0)
            if k < self.bits - 1:
                r = r - sign * jax.lax.stop_gradient(weights[k])
        return resolved(x, code, noise=noise, step=step)

    def transitions(self) -> Float[np.ndarray, "codes_less_1 n"]:
        """The inputs at which the code of this chip changes, lowest first [full scale].

        Where code c begins, the decisions above its lowest one-bit have cancelled what
        the capacitors hold: the edge is their sum. Exact while no code is missing.
        """
        n = self.resolution
        weights = np.asarray(self.weights())[: n - 1]
        codes = np.arange(1, 2**n)
        bits = (codes[:, None] >> np.arange(n - 1, -1, -1)) & 1
        lowest = n - 1 - np.argmax(bits[:, ::-1], axis=1)
        before = np.arange(n - 1) < lowest[:, None]
        signs = np.where(before, 2 * bits[:, :-1] - 1, 0)
        return signs @ weights.astype(float) - np.asarray(self.offset.realized())

    def linearity(self) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
        """(INL, DNL) of every edge and of every step of this chip [LSB].

        Edges are held against a line through the outer two, steps against their mean
        (IEEE Std 1241, DOI 10.1109/IEEESTD.2011.5692956).
        """
        edges = self.transitions()
        step = (edges[-1] - edges[0]) / (len(edges) - 1)
        line = edges[0] + step * np.arange(len(edges))[:, None]
        return (edges - line) / step, np.diff(edges, axis=0) / step - 1

    def error_variance(self, process: Process) -> dict[str, float]:
        """E(y − x)² over inputs that fill the range, by cause [full scale²]."""
        n_units = 2 ** (self.resolution - 1)
        grown = float(self.capacitor.area_factor())
        spread = process.spread(self.capacitor.kind, self.capacitor.area_m2)
        shares = 2.0 ** -np.arange(1, self.resolution)
        return {
            "quantization": self.lsb**2 / 12,
            "sampling": process.thermal_variance(float(self.total_F())),
            "comparator": process.thermal_variance(self.comparator_F) / grown,
            # Var(C_k/C_Σ) = σ_unit²/C_Σ·(w − w²), w the share of C_k.
            "mismatch": spread**2
            / (n_units * grown)
            * float(np.sum(shares - shares**2)),
        }

    def effective_bits(self, process: Process) -> float:
        """ENOB expected of chips: B − log2 of the rms error over LSB/√12."""
        return math.log2(2 / math.sqrt(12 * sum(self.error_variance(process).values())))

    def events(self, process, *, period_s):
        del period_s
        n, total_F, bits = self.n_out, self.total_F(), plain(self.code_bits())
        comparator_F = self.comparator_F * plain(self.capacitor.area_factor())
        buffers_C = 2 * process.settling_charge_C(total_F)
        charges = {
            "samples": 2 * total_F * process.swing_V,
            # Of the two halves one is switched, the whole array in B − 1 decisions.
            "array": total_F * process.supply_V * process.as_drawn("array"),
            "comparators": 2
            * bits
            * comparator_F
            * process.supply_V
            * process.as_drawn("comparators"),
        }
        # By the best amplifiers: no corner of a bill is below the floor.
        own = sum(charges.values()) + buffers_C * process.amplifier_excess.low
        missing = floor_J(bits) / process.supply_V - own
        if isinstance(missing, jax.Array):
            missing = jnp.maximum(missing, 0.0)
        if isinstance(missing, jax.Array) or missing > 0:
            charges["measured floor"] = missing
        return (
            *(Event("supply_charge_C", n * q, part) for part, q in charges.items()),
            Event("amplifier_charge_C", n * buffers_C, "buffers"),
            # A shift register of B, clocked B times, and the B bits it fills.
            Event("flop_cycle", n * bits * (bits + 1), "sequencers"),
        )

    def diagnose(self, xs, *, process, key):
        error = self.apply(xs, process=process, key=key) - jnp.clip(xs, -1.0, 1.0)
        power = jnp.mean(jnp.square(error - jnp.mean(error, (*range(xs.ndim - 1),))))
        return {
            "clipped_share": jnp.mean(jnp.abs(xs) > 1),
            "effective_bits": jnp.log2(2 / jnp.sqrt(12 * power)),
        }

    def netlist(self, process, *, name) -> Netlist:
        return sar_netlist(self, process, name=name)


class Dac(AbstractMemorylessCircuit):
    """A capacitive DAC per channel: a word switches binary weights, charge adds them.

        word ─ sign ─┐     ┌──┤├── C_0 = 2^(B−2) units
                ±full scale┼──┤├── C_1                ──▷── y = sign·Σ_k b_k·C_k/C_Σ + n
                           └──┤├── …                     Var n = thermal_noise·kT/C_Σ

    The word is the nearest to x of the 2^B − 1 symmetric codes of `quantize`, which is
    what this converter is without noise and mismatch. Inside ±1 the gradient is the
    identity.

    It bills what it consists of, so **no `dac_conversion` event**: charge of the array
    and of the buffer that drives `load_F`, flip-flops that hold the word. Where that
    charge is less than measured ones take (`dac_floor_J`), `measured floor` bills the
    rest, and the flip-flops on top. Reading the word from its ROM is on the bill of
    whoever reads it.

    Assumes: the halves are one array of twice the area, exchanged for the sign. Does
    not model: offset and noise of the buffer beyond the process's `thermal_noise`,
    glitches.

    Reference: McCreary & Gray 1975, "All-MOS charge redistribution analog-to-digital
    conversion techniques", DOI 10.1109/JSSC.1975.1050629.
    """

    capacitor: Bank
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    bits: int = eqx.field(static=True)
    unit_F: float = eqx.field(static=True)
    load_F: float = eqx.field(static=True)

    def __init__(
        self,
        n: int,
        *,
        bits: int = 8,
        process: Process,
        unit_F: float | None = None,
        load_F: float = 10e-15,
    ):
        """`unit_F`: the unit capacitor [F]; None is the smallest of the process.

        Raises `ValueError` as `SarConverter` does.
        """
        check_sizes(n, bits, load_F=load_F)
        self.n_in = self.n_out = n
        self.bits, self.load_F = bits, load_F
        self.unit_F = drawn_unit_F(unit_F, process)
        units = [2.0**k for k in range(bits - 2, -1, -1)]
        self.capacitor = fixed_bank(units, n, self.unit_F, process)

    @property
    def total_F(self) -> float:
        """C_Σ as designed, of one half [F]."""
        return self.unit_F * (2 ** (self.bits - 1) - 1)

    def weights(self) -> Float[Array, "bits_less_1 n"]:
        """C_k / C_Σ of this chip, the largest first."""
        units = self.capacitor.realized().reshape(self.bits - 1, self.n_out)
        return units / jnp.sum(units, axis=0)

    def apply(self, x, *, process, key):
        codes = 2 ** (self.bits - 1) - 1
        word = codes * quantize(
            jax.lax.stop_gradient(x), full_scale=1.0, bits=self.bits
        )
        left, y = jnp.round(jnp.abs(word)), jnp.zeros_like(word)
        for k, weight in enumerate(self.weights()):
            units = 2.0 ** (self.bits - 2 - k)
            bit = (left >= units).astype(y.dtype)
            left, y = left - units * bit, y + bit * weight
        y = coupled(straight_through(x, jnp.sign(word) * y), process=process)
        variance = process.thermal_variance(self.total_F)
        return thermal_noise(y, variance, process=process, key=key)

    def events(self, process, *, period_s):
        del period_s
        array_C = self.total_F * process.swing_V
        buffers_C = 2 * process.settling_charge_C(self.total_F + self.load_F)
        charges = {"arrays": 2 * array_C}
        own = 2 * array_C + buffers_C * process.amplifier_excess.low
        missing = dac_floor_J(self.bits) / process.supply_V - own
        if missing > 0:
            charges["measured floor"] = missing
        n = self.n_out
        return (
            *(Event("supply_charge_C", n * q, part) for part, q in charges.items()),
            Event("amplifier_charge_C", n * buffers_C, "buffers"),
            Event("flop_cycle", n * self.bits, "words"),
        )

    def netlist(self, process, *, name) -> Netlist:
        weights, number = np.asarray(self.weights()), cells.number
        codes, devices = 2 ** (self.bits - 1) - 1, []
        x = cells.difference("x", process)
        # The word, from x: one half added, then every bit that fits is taken away.
        law = f"min({number(codes)}, {number(codes)} * abs({x})) + 0.5"
        devices.append(Device("m0", "voltage", ("m0", "ref"), law=law))
        terms = []
        for k in range(self.bits - 1):
            units = number(2.0 ** (self.bits - 2 - k))
            bit = f"max(0, min(1, {number(DECIDE)} * (v(m{k}, ref) - {units})))"
            terms.append(f"w{k} * {bit}")
            law = f"v(m{k}, ref) - {units} * {bit}"
            devices.append(
                Device(f"m{k + 1}", "voltage", (f"m{k + 1}", "ref"), law=law)
            )
        sign = cells.clip(f"{number(DECIDE)} * {x}")
        devices += cells.differential_voltage(
            "y", f"{sign} * ({' + '.join(terms)})", process
        )
        xs = np.repeat(cells.trial_vectors((12, 1)), self.n_in, axis=1)
        ys = cells.predicted(self, xs, process)
        bench = cells.static_bench(
            f"{name}_unit_codes", {"x": xs[:, 0]}, {"y": ys[:, 0]}, process=process
        )
        meaning = "realized binary weight"
        cell = Netlist(
            f"{name}_unit",
            (*cells.halves("x", "y"), "ref"),
            tuple(devices),
            parameters={
                f"w{k}": Parameter(float(w), "C/C_total", meaning)
                for k, w in enumerate(weights[:, 0])
            },
            benches=(bench,),
            notes="v(m_k, ref) is what is left of the word before bit k, 1 V per unit."
            " x is the word, as a fraction of full scale.",
        )
        values = [{f"w{k}": float(w) for k, w in enumerate(c)} for c in weights.T]
        return array(name, [(cell, value) for value in values])
