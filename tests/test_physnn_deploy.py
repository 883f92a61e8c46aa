"""deploy: what cannot act is an error, and every value that acts is reported."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from physnn.deploy import active_sources, deploy
from physnn.environment import Environment
from physnn.fabricate import FROZEN, fabricate, frozen
from tests.helpers import PERIOD_S, PROCESS, banks, member

MAC = member("ChargeMac")
ASKED = {"key": jr.key(0), "period_s": PERIOD_S}


@pytest.mark.parametrize("name", ["converter_bow_LSB", "decision_taus", "supply"])
def test_deploy_names_a_source_that_no_part_honors(name):
    e = Environment(output_noise=0.01).replace(**{name: 0.5})
    # Asked for again, it is refused again.
    for _ in range(2):
        with pytest.raises(ValueError, match=f"`{name}` = 0.5 acts on none of its 1"):
            deploy(MAC, PROCESS, e, **ASKED)
    with pytest.raises(ValueError, match=f"`{name}` = 0.5"):
        jax.jit(lambda key: deploy(MAC, PROCESS, e, key=key, period_s=PERIOD_S).chip)(
            jr.key(1)
        )
    chip = deploy(MAC, PROCESS, e, strict=False, **ASKED).chip
    honest = deploy(MAC, PROCESS, Environment(output_noise=0.01), **ASKED).chip
    assert eqx.tree_equal(chip, honest)
    # An array has been asked about by whoever made it.
    assert eqx.tree_equal(deploy(MAC, PROCESS, e.traced(name), **ASKED).chip, honest)


@pytest.mark.parametrize("number", [np.float32, np.float64, np.int64, int])
def test_numbers_of_numpy_are_amounts_as_others_are(number):
    with pytest.raises(ValueError, match=r"`converter_bow_LSB` = 5.0 acts on none"):
        deploy(MAC, PROCESS, Environment(converter_bow_LSB=number(5)), **ASKED)
    lost = Environment(ripple_V=number(1))
    with pytest.raises(ValueError, match="also has `ripple_V` = 1"):
        fabricate(MAC, PROCESS, key=jr.key(0), environment=lost)
    assert Environment(ripple_V=number(0)).is_none("ripple_V")


def test_an_array_excuses_no_amount_but_itself():
    e = Environment(thermal=jnp.float32(1.0), converter_bow_LSB=5.0)
    with pytest.raises(ValueError, match="`converter_bow_LSB` = 5"):
        deploy(MAC, PROCESS, e, **ASKED)
    with pytest.raises(ValueError, match="`converter_bow_LSB` = 5"):
        deploy(MAC, PROCESS.traced(), Environment(converter_bow_LSB=5.0), **ASKED)


def test_what_acts_is_deployed():
    e = Environment(dead=0.1, ripple_V=0.01, temperature_K=320.0, die_to_die=0.3)
    chip = deploy(MAC, PROCESS, e, **ASKED).chip
    assert 0 < np.mean(chip.circuit.weight.follow) < 1
    # And is asked about for each design, not once for all.
    with pytest.raises(ValueError, match="acts on none of its 1"):
        deploy(member("GilbertGate"), PROCESS, e, **ASKED)


@pytest.mark.parametrize(
    "lost",
    [
        {"supply": 0.9},
        {"mismatch": 0.0},
        {"thermal": 2.0},
        {"corner": "ss"},
        {"temperature_K": 320.0},
        {"die_to_die": 0.3},
        {"ripple_V": 0.01},
        {"flicker_V2m2": 1e-22},
        {"decision_taus": 20.0},
    ],
)
def test_fabricate_refuses_what_is_not_frozen(lost):
    ((name, value),) = lost.items()
    e = Environment(dead=0.1, **lost)
    with pytest.raises(ValueError, match=f"also has `{name}` = {value}.* use `deploy`"):
        fabricate(MAC, PROCESS, key=jr.key(0), environment=e)
    chips = [
        fabricate(MAC, PROCESS, key=jr.key(0), environment=environment)
        for environment in (frozen(e), Environment(dead=0.1, ripple_Hz=1e4))
    ]
    assert eqx.tree_equal(*chips)


def test_what_is_frozen_reaches_a_chip_through_deploy():
    amounts = {"programming": 0.02, "dead": 0.1, "gradient_per_mm": 10.0}
    assert set(amounts) < set(FROZEN)
    deployed = deploy(
        MAC, PROCESS, Environment(ripple_V=0.01).replace(**amounts), **ASKED
    )
    alone = fabricate(
        MAC, PROCESS, key=jr.key(0), environment=Environment().replace(**amounts)
    )
    for path, bank in banks(deployed.chip.circuit).items():
        assert eqx.tree_equal(bank, banks(alone)[path])


def test_frequencies_stand_beside_their_amounts():
    e = Environment(
        ripple_V=0.01, ripple_Hz=1.3e5, flicker_V2m2=1e-22, flicker_low_Hz=0.1
    )
    text = {s.name: str(s) for s in active_sources(MAC, PROCESS, e)}
    assert text["ripple_V"] == "ripple_V = 0.01 V peak at 1.3e+05 Hz: 1 of 1"
    assert text["flicker_V2m2"] == "flicker_V2m2 = 1e-22 V²·m² from 0.1 Hz: 1 of 1"
    assert text["mismatch"] == "mismatch = 1 of the process: 1 of 1"
    sources = {s.name: s for s in active_sources(MAC, PROCESS, e.traced("ripple_Hz"))}
    assert sources["ripple_V"].frequency == ("ripple_Hz", "traced")
    assert sources["mismatch"].frequency is None


@pytest.mark.parametrize("name", ["Residual", "HashedMemory"])
def test_a_circuit_has_noise_of_its_own_beside_that_of_its_parts(name):
    sources = {s.name: s for s in active_sources(member(name), PROCESS, Environment())}
    assert "" in sources["thermal"].acts_on
