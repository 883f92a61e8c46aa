"""What the reader of a bill must know beside its Joules, in sentences."""

import math

from physnn.energy import Ledger, Prices
from physnn.energy.facts import load_facts
from physnn.units import readable

# Above this share of the total, leakage is said to hang on the rate.
LEAKS = 0.1
# Facts of the law of GPUs.
_OF_DECODING = ("sys.decode.", "base2030.gpu.")


def bytes_in_token(
    asked: float | None,
    vocabulary: int,
    *,
    images: bool,
    own: tuple[int, float | None],
) -> tuple[float, str]:
    """Bytes of a token, and where they are from.

    `own`: symbols and measured bytes per token of the config's task. Raises
    `ValueError` for what is `asked` if it is not positive and finite.
    """
    if asked is not None:
        if not 0 < asked < math.inf:
            raise ValueError(
                "Argument `bytes_per_token` must be positive and finite, but is"
                f" {asked}."
            )
        return asked, "as asked"
    if vocabulary == own[0] and own[1] is not None and own[1] != 1:
        return own[1], "measured on the test split of its text"
    if vocabulary <= 256:
        return 1.0, "an image is one" if images else "a token is a byte"
    fact = load_facts()["norm.bytes_per_bpe_token"]
    return fact.nominal, f"{fact.id}, {fact.confidence}"


def notes_of_machine(
    ledger: Ledger,
    prices: Prices,
    rate: float,
    *,
    context: int | None,
    trained: int,
    passes: int,
) -> tuple[str, ...]:
    """Of a digital design at `rate` tokens per second; `context` and `passes` as asked.

    `trained`: positions that its config is trained on. `passes`: of an image generator;
    0: a language model.
    """
    notes = []
    leaks = ledger.by_line().get("leakage")
    if leaks and leaks.nominal > LEAKS * ledger.total.nominal:
        notes.append(
            f"memories leak for {readable(1 / rate, 's')} per token: a machine that"
            " runs faster spends less (--tokens-per-second)"
        )
    if prices.serving.drafted:
        notes.append("who drafts the tokens has a bill of its own, left out here")
    if passes:
        notes.append(
            "an image: what encodes its prompt and what decodes its patches is left"
            " out; a token is a patch in a pass"
        )
        if any((row.fact or "").startswith(_OF_DECODING) for row in prices.rows):
            notes.append(
                f"`{prices.name}` is fitted to the decoding of text: of six generators"
                " measured on a B200 that law bills 0.95 to 3.8 times (docs/energy.md)"
            )
    elif context is not None:
        notes.append(
            f"the bill is of the mean token of a window of {context}, which attends to"
            " half of it"
        )
        if context > trained:
            notes.append(
                f"the window of {context} is longer than the {trained} positions that"
                " the config is trained on: its positions are angles and have no end,"
                " but that it works at this length is not claimed"
            )
    if context is not None and "cache_byte" in prices.zero_events:
        notes.append(
            f"`{prices.name}` has no price for the cache, which favors it at long"
            " contexts"
        )
    return tuple(notes)


def notes_of_circuit(
    own_s: float, rate: float, *, context: int | None, drawn: bool, grown: bool
) -> tuple[str, ...]:
    """Of a physical design of `own_s` per token, at `rate` tokens per second."""
    notes = []
    if drawn:
        notes.append(
            "an image is drawn patch by patch, each a symbol sampled after those before"
        )
    elif context is not None:
        notes.append("the state has a fixed size: no line depends on the context")
    if rate > 1 / own_s:
        notes.append(
            f"that rate takes {math.ceil(rate * own_s)} chips of"
            f" {readable(own_s, 's')} per token"
        )
    if grown:
        notes.append(
            "the time per token is the config's: that a deeper design settles in it is"
            " assumed, not checked"
        )
    if rate < 1 / own_s:
        notes.append(
            f"it computes {rate * own_s:.3g} of the time and leaks all the time; its"
            " bias is off while it waits"
        )
    return tuple(notes)
