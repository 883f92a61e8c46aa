"""Ageing: what devices lose by a power of time."""

import jax
import jax.random as jr

from physnn.bank import Bank

TEN_YEARS_S = 10 * 365.25 * 86400


def ageing(bank: Bank, *, process, environment, key, place):
    """Shift after `age_s` under stress, by kind, from the table [ageing] of the card.

        threshold:  N(0, 1)·A·(t/10 a)^n / swing       A [V rms of a pair's difference]
        others:     −value·A·(1 + s·N(0, 1))·(t/10 a)^n       A relative, s: `spread`

    Of a ratio of two equal devices the mean loss cancels and the spread stays. A power
    of time n of 0.16-0.25 is that of bias temperature instability (Alam & Mahapatra
    2005, DOI 10.1016/j.microrel.2004.03.019; remembered, unverified), an A of
    1 − (t_10a/t_0)^−ν one of drifting memories.
    """
    del place
    most = process.ageing.get(f"{bank.kind}_V", process.ageing.get(bank.kind, 0.0))
    if environment.is_none("age_s") or (isinstance(most, float) and most == 0):
        return None
    share = most * (environment.age_s / TEN_YEARS_S) ** process.ageing["exponent"]
    normal = jr.normal(key, bank.value.shape)
    if bank.kind == "threshold":
        return share / process.swing_V * normal
    mean = 0.0 if bank.is_ratio else 1.0
    loss = share * (mean + process.ageing["spread"] * normal)
    return -jax.lax.stop_gradient(bank.nominal()) * loss
