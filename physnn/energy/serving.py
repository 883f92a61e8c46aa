"""Serving: how a machine is used, and how often an event then happens per token."""

import math
from dataclasses import dataclass

# One pass over the weights does these once for all tokens that it computes; the bytes
# of a cache once for all tokens of one sequence.
_PER_PASS = ("weight_byte", "weight_bit_m", "cache_byte")
# These follow the tokens that are kept, not those that are computed.
_PER_KEPT = ("host_token", "io_bit", "stored_bit_s", "chip_s")
# A prompt needs its logits once, at its end.
_AT_THE_END = ("head", "sampling", "host")


@dataclass(frozen=True)
class Serving:
    """How a machine serves a design: what belongs to the use, not to the design.

    - `batch`: sequences that are computed together.
    - `tokens_per_pass`: tokens a sequence keeps of one pass over the weights; above 1
      with draft-and-verify decoding (Leviathan et al. 2023, arXiv 2211.17192).
    - `drafted`: tokens that are proposed for a pass; `drafted` + 1 are computed in it.
      Who drafts them is a design of its own, with a bill of its own.
    - `prompt`: prefill instead of decode: so many tokens of a prompt in one pass, of
      which only the last one's logits are needed. 0: decode.
    - `cache_waste`: share of the cache's memory that paging leaves unused. It is held,
      not read.
    - `utilization`: share of the time in which the machine computes. What is held leaks
      all the time, so each token pays for the wait before it, too.

    Raises `ValueError` for a batch below 1 or infinite, for more tokens kept than
    computed, for speculation within a prompt, for a waste outside [0, 1) and a
    utilization outside (0, 1].
    """

    batch: float = 1.0
    tokens_per_pass: float = 1.0
    drafted: float = 0.0
    prompt: int = 0
    cache_waste: float = 0.0
    utilization: float = 1.0

    def __post_init__(self):
        for name, lowest in (("batch", 1), ("tokens_per_pass", 1), ("drafted", 0)):
            value = getattr(self, name)
            if not lowest <= value < math.inf:
                raise ValueError(
                    f"Argument `{name}` must be at least {lowest} and finite, but is"
                    f" {value:g}."
                )
        if self.tokens_per_pass > self.drafted + 1:
            raise ValueError(
                "Argument `tokens_per_pass` must be at most `drafted` + 1, because a"
                f" pass keeps no more than it computes, but they are"
                f" {self.tokens_per_pass:g} and {self.drafted:g}."
            )
        if self.prompt < 0:
            raise ValueError(
                f"Argument `prompt` must not be negative, but is {self.prompt}."
            )
        if self.prompt and self.drafted:
            raise ValueError(
                "Argument `drafted` must be 0 within a prompt, whose tokens are known,"
                f" but is {self.drafted:g}."
            )
        if not 0 <= self.cache_waste < 1:
            raise ValueError(
                "Argument `cache_waste` must be a share from 0 to below 1, but is"
                f" {self.cache_waste:g}."
            )
        if not 0 < self.utilization <= 1:
            raise ValueError(
                "Argument `utilization` must be a share above 0 and at most 1, but is"
                f" {self.utilization:g}."
            )

    @property
    def kept(self) -> float:
        """Tokens of a sequence that one pass yields."""
        return float(self.prompt or self.tokens_per_pass)

    @property
    def computed(self) -> float:
        """Tokens of a sequence that one pass computes."""
        return float(self.prompt or self.drafted + 1)

    def times(self, name: str, part: str, active: float, *, per_batch: bool) -> float:
        """How often an event happens per kept token, over its count for one alone.

        What a token touches a share `active` of (the chosen experts of all) is touched
        by n tokens to the share 1 − (1 − active)^n, if they choose independently.
        """
        sequences = self.batch if per_batch else 1.0
        if name in _PER_PASS or (name == "wire_bit_m" and part == "cache"):
            tokens = sequences * self.computed
            touched = 1.0
            if active < 1:
                touched = -math.expm1(tokens * math.log1p(-active)) / active
            return touched / (sequences * self.kept)
        times = 1 / sequences
        if self.prompt and part.split(".")[0] in _AT_THE_END:
            return times / self.prompt
        if name in ("stored_bit_s", "chip_s"):
            times /= self.utilization
            if part == "cache":
                times /= 1 - self.cache_waste
        if name in _PER_KEPT:
            return times
        return times * self.computed / self.kept
