"""What the benchmarks call a floor computes what the family does, gradients too."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.benchmarks.floors_by_hand import CASES, Sizes, charge_mac

SIZES = Sizes(rows=6, width=16, time=8, batch=2)
# Those of dynamic families, of one size, are compared where they are timed.
QUIET = [name for name in CASES if "MAC" not in name and name not in
         ("resonators", "phase oscillators", "settling network")]  # fmt: skip


def both(function, arguments):
    """Value and gradients, to all real arrays."""
    real, rest = eqx.partition(arguments, eqx.is_inexact_array)

    def values(real):
        y = function(*eqx.combine(real, rest))
        weights = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        return jnp.sum(weights * y), y

    return jax.jit(jax.value_and_grad(values, has_aux=True))(real)


@pytest.mark.usefixtures("plain_promotion")
@pytest.mark.parametrize("name", [*QUIET, "charge MAC without noise"])
def test_the_floor_computes_what_the_family_does(name):
    quiet_mac = name.startswith("charge")
    case = charge_mac(SIZES, noise=False) if quiet_mac else CASES[name](SIZES)
    found = jax.tree.leaves(both(case.ours, case.arguments))
    wanted = jax.tree.leaves(both(case.floor, case.arguments))
    assert np.std(wanted[1]) > 0.01
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.usefixtures("plain_promotion")
def test_the_floor_of_a_charge_mac_draws_as_much_noise():
    case = charge_mac(Sizes(rows=512, width=16))
    quiet = charge_mac(Sizes(rows=512, width=16), noise=False)
    arguments = case.arguments
    clean = np.asarray(quiet.floor(*arguments))
    # Of a column: 512 draws, and the mismatch of 16 devices.
    spread = lambda function: np.std(np.asarray(function(*arguments)) - clean, axis=0)
    ours, by_hand = (float(np.mean(spread(f))) for f in (case.ours, case.floor))
    assert ours > 1e-4
    assert by_hand == pytest.approx(ours, rel=0.15)
