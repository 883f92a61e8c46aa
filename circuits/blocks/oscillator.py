"""The oscillator block: phases that settle under what a window of tokens injects."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from circuits.blocks.base import Site
from circuits.blocks.gated_mixer import GatedMixer
from circuits.blocks.gated_unit import GatedUnitBlock
from circuits.oscillator import PhaseOscillators
from circuits.oscillator_parts import SINE, TRIANGLE, Coupling
from circuits.parts import not_negative, positive
from circuits.restarted import Restarted
from circuits.stuart_landau import StuartLandau

# What oscillators with amplitudes do not have.
PHASES_ALONE = (
    "n_hidden",
    "n_pool",
    "n_segments",
    "second_harmonic",
    "shape",
    "harmonics",
    "reference",
)


@dataclass(frozen=True)
class OscillatorBlock:
    """A mixer on phase oscillators; over channels alone at one tap, not persistent.

    A window of `n_taps` tokens is what such a network has for a context where its
    phases start anew with each token (then all tokens settle at once); where they
    persist, the phases are one, too. The window of each channel is learned; at the
    start it falls with age, at a rate of the channel's own between one token and the
    whole window.

    Reference: causal windows under phase oscillators, "KuramotoGPT", by way of
    field.md L2.
    """

    kind: Literal["oscillator"] = "oscillator"
    n: int = 96  # oscillators, hidden ones and the reference ring included
    n_taps: int = 16  # samples the delay line holds
    persistent: bool = False  # phases last from token to token
    longest_memory: float = 16.0  # of phases that last, at the start [tokens]
    coupling: Coupling = "dense"
    degree: int = 16  # couplers per ring, of local and sparse coupling
    n_hidden: int = 0  # of the oscillators: coupled, but not read
    n_pool: int = 0  # oscillators more, which drive the others and are not driven
    n_segments: int = 1  # times the couplings change within a token, plus one
    n_steps: int = 3  # midpoint steps per token
    coupling_rate: float = 1.0  # rms pull on a ring at the start [rad/token]
    drive_rate: float = 6.0  # pull of a full-scale input [rad/token]
    second_harmonic: float = 0.0  # locking to 0 or pi [rad/token]
    shape: Literal["sine", "triangle"] = "sine"
    # Of a measured coupling, `(sine, cosine)` each, as a card of rings has them under
    # `shape`; none: it is the named one.
    harmonics: tuple[tuple[float, float], ...] = ()
    growth: float = (
        0.0  # of amplitudes that start at a tenth [1/token]; 0: phases alone
    )
    reference: Literal["clock", "ring"] = "clock"
    cycles: float = 8.0  # of a ring per token
    ring_F: float = 22e-15  # what a ring switches per cycle: its energy and noise
    wiring_seed: int = 0  # of sparse coupling

    mechanism: ClassVar[str] = "cell"

    def __post_init__(self):
        positive(n=self.n, n_taps=self.n_taps, longest_memory=self.longest_memory)
        not_negative(growth=self.growth)
        if self.harmonics and self.shape != "sine":
            raise ValueError(
                "Argument `shape` must be left out where `harmonics` are given, but is"
                f" {self.shape}."
            )
        for name in PHASES_ALONE if self.growth else ():
            value = getattr(self, name)
            if value != getattr(OscillatorBlock, name):
                raise ValueError(
                    f"Argument `{name}` must be left out where amplitudes grow"
                    f" (`growth` {self.growth}), but is {value}."
                )

    def build(self, site: Site) -> GatedMixer:
        cell = self._cell(site)
        return GatedMixer(
            cell if self.persistent else Restarted(cell),
            site,
            n_taps=self.n_taps,
            drive=self._hold(cell) if self.persistent else None,
            windows=recent_windows(self.n_taps, site.width),
        )

    def _cell(self, site: Site) -> PhaseOscillators | StuartLandau:
        common: dict[str, Any] = {
            "period_s": site.period_s,
            "key": site.stream("cell"),
            "coupling": self.coupling,
            "degree": self.degree,
            "n_steps": self.n_steps,
            "bits": site.weight_bits,
            "coupling_rate": self.coupling_rate,
            "drive_rate": self.drive_rate,
            "cycles": self.cycles,
            "ring_F": self.ring_F,
            "seed": self.wiring_seed,
        }
        if self.growth:
            return StuartLandau(self.n, growth=self.growth, **common)
        return PhaseOscillators(
            self.n,
            n_hidden=self.n_hidden,
            n_pool=self.n_pool,
            n_segments=self.n_segments,
            second_harmonic=self.second_harmonic,
            shape=self.harmonics or (SINE if self.shape == "sine" else TRIANGLE),
            reference=self.reference,
            **common,
        )

    def _hold(self, cell: PhaseOscillators | StuartLandau) -> Float[Array, " n_in"]:
        """A constant injection in phase: what it pulls back to the reference forgets.

        Log-spaced over the rings, so that they remember from half a token to the
        longest memory. Without it a network of random couplings is chaotic.
        """
        rings = cell.n_in // 2
        memory = jnp.exp(
            jnp.linspace(math.log(0.5), math.log(self.longest_memory), rings)
        )
        level = jnp.minimum(1 / (memory * self.drive_rate), 1.0)
        return jnp.concatenate([level, jnp.zeros(rings)])

    def without_mechanism(self) -> "OscillatorBlock | GatedUnitBlock":
        """The same rings without couplings; of those, a gated unit without rings."""
        if self.coupling == "none" and self.n_pool == 0:
            n_read = self.n - self.n_hidden - (self.reference == "ring")
            return GatedUnitBlock(n_hidden=2 * n_read, n_taps=self.n_taps)
        return replace(self, coupling="none", n_pool=0, n_segments=1)


def recent_windows(n_taps: int, n: int) -> Float[Array, "taps n"]:
    """Windows that fall as e^(−age/τ), of unit power; τ from 0.3 to a third of them."""
    age = jnp.arange(float(n_taps))[:, None]
    slowest = max(n_taps / 3, 0.5)
    tau = 0.3 * (slowest / 0.3) ** jnp.linspace(0.0, 1.0, n)
    window = jnp.exp(-age / tau)
    return window / jnp.sqrt(jnp.sum(window**2, axis=0))
