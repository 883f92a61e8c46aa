"""Channel synapses: the exact sum and its gradient, noise, mismatch, XOR, text."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.blocks.base import Site
from circuits.blocks.channel import ChannelBlock, ChannelLayerConfig
from circuits.channel import SUM_F, UNIT_M2, UNROLL, ChannelLayer, channel_sum
from circuits.parts import DelayLine
from evals.verify import verify
from physnn.circuit import run
from physnn.export.package import export
from physnn.fabricate import fabricate
from tests.helpers import (
    PERIOD_S,
    PROCESS,
    QUIET,
    assert_variance,
    run_jit,
    smooth,
    totals,
    with_process,
)


def layer(weights, *, offset=0.0, bits=6, **kwargs):
    weights = jnp.asarray(weights, jnp.float32)
    circuit = ChannelLayer(*weights.shape, bits=bits, key=jr.key(0), **kwargs)
    circuit = eqx.tree_at(lambda c: c.weight.value, circuit, weights)
    return eqx.tree_at(
        lambda c: c.offset.value, circuit, jnp.full(circuit.n_out, offset)
    )


def by_loop(x, w):
    """The sum as it is written, term by term."""
    y = np.zeros((len(x), w.shape[1]))
    for b in range(len(x)):
        for j in range(w.shape[1]):
            for i in range(w.shape[0]):
                limited = np.sign(x[b, i]) * min(abs(x[b, i]), abs(w[i, j]))
                y[b, j] += np.sign(w[i, j]) * limited
    return y


# Around the number of terms of one pass.
SIZES = st.sampled_from([1, 2, UNROLL - 1, UNROLL, UNROLL + 1, 2 * UNROLL + 3])


@given(SIZES, SIZES, st.integers(0, 2**31))
@settings(max_examples=12)
def test_the_sum_is_that_of_its_terms(n_in, n_out, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3, n_in)).astype(np.float32)
    w = rng.normal(size=(n_in, n_out)).astype(np.float32)
    x[0, 0] = 0.0
    w[-1, -1] = 0.0
    np.testing.assert_allclose(
        channel_sum(jnp.asarray(x), jnp.asarray(w)), by_loop(x, w), rtol=2e-5, atol=1e-5
    )


@pytest.mark.parametrize("sizes", [(3, 2, 5), (18, 17, 33)])
def test_gradient_is_the_difference_quotient(sizes):
    batch, n_in, n_out = sizes
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        x, w = rng.normal(size=(batch, n_in)), rng.normal(size=(n_in, n_out))
        g = rng.normal(size=(batch, n_out))
        loss = jax.jit(lambda x, w: jnp.sum(g * channel_sum(x, w)))
        dx, dw = jax.jit(jax.grad(loss, argnums=(0, 1)))(x, w)
        for gradient, of in ((dx, 0), (dw, 1)):
            for _ in range(3):
                way = rng.normal(size=gradient.shape)
                at = lambda h, of=of, way=way: loss(
                    *(v + h * way if i == of else v for i, v in enumerate((x, w)))
                )
                quotient = (at(1e-7) - at(-1e-7)) / 2e-7
                np.testing.assert_allclose(np.vdot(gradient, way), quotient, rtol=1e-6)


def test_gradient_under_vmap_is_that_of_each():
    x, w = jr.normal(jr.key(0), (2, 4, 18)), jr.normal(jr.key(1), (2, 18, 3))
    loss = lambda x, w: jnp.sum(channel_sum(x, w) ** 2)
    gradients = jax.grad(loss, argnums=(0, 1))
    together = jax.jit(jax.vmap(gradients))(x, w)
    for i in range(2):
        alone = jax.jit(gradients)(x[i], w[i])
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("x", "w", "limited"),
    [
        (0.5, 0.25, 0.25),
        (0.125, 0.25, 0.125),
        (-0.5, 0.25, -0.25),
        (0.5, -0.25, -0.25),
        (-0.125, -0.25, 0.125),
        (0.5, 0.0, 0.0),
        (0.0, 0.25, 0.0),
    ],
)
def test_truth_table_of_one_channel(x, w, limited):
    leak = 0.1
    circuit = smooth(layer([[w]], offset=0.01, leak=leak, gain=0.1))
    y = run_jit(circuit, jnp.asarray([[x]]), process=QUIET, key=jr.key(0))
    units = (1 - 2 / np.pi) ** 0.5 / 0.1
    expected = (limited + np.sign(w) * leak * x) / units + 0.01
    assert y[0, 0] == pytest.approx(expected, rel=1e-5)


def test_output_keeps_the_spread_of_its_input():
    circuit = ChannelLayer(400, 300, bits=8, key=jr.key(0), leak=0.0, gain=0.5)
    x = 0.25 * jr.normal(jr.key(1), (50, 400))
    y = run_jit(circuit, x, process=QUIET, key=jr.key(0))
    assert y.std() == pytest.approx(0.5 * 0.25, rel=0.05)


def test_output_is_clipped():
    circuit = layer(np.ones((8, 2)), gain=5.0)
    y = run_jit(circuit, jnp.ones((1, 8)), process=PROCESS, key=jr.key(0))
    np.testing.assert_array_equal(y, 1.0)


def test_noise_is_shot_and_thermal():
    weights = np.asarray([[0.5, 0.1], [-0.5, 0.05], [0.25, 0.0]])
    circuit = layer(weights, bits=16)
    x = jnp.broadcast_to(jnp.asarray([0.1, -0.2, 0.05]), (20_000, 3))
    quiet = run_jit(circuit, x[:1], process=QUIET, key=jr.key(0))
    noise = run_jit(circuit, x, process=PROCESS, key=jr.key(1)) - quiet
    n, q = 3, 1.602176634e-19
    # 2^15 − 1 sources and 16 bits beside them make a synapse wide.
    cell_m2 = (2**15 - 1) * UNIT_M2 + 16 * 0.3e-12
    C = SUM_F + n * cell_m2**0.5 * PROCESS.wire_F_per_m
    F = (n * (1 - 2 / np.pi)) ** 0.5
    tails = np.abs(weights).sum(0)
    kT = 1.380649e-23 * PROCESS.temperature_K
    # The full scale of both halves is 2·C·swing; electrons come one by one.
    shot = q * tails / (2 * C * PROCESS.swing_V * F)
    thermal = kT / C / PROCESS.swing_V**2
    assert_variance(noise, PROCESS.thermal_noise * (shot + thermal))
    assert np.all(shot > 0.2 * thermal)


def test_energy_is_that_of_the_tails():
    circuit = layer(np.full((5, 4), 0.5))
    charge = {
        event.part: float(event.count)
        for event in circuit.events(PROCESS, period_s=PERIOD_S)
        if event.name == "supply_charge_C"
    }
    # Each column draws Σ|w| / F of the charge that moves both halves by full scale.
    full_C = 2 * circuit.sum_F(PROCESS) * PROCESS.swing_V
    assert charge["tails"] == pytest.approx(
        4 * 2.5 / circuit.units * full_C, rel=1e-5, abs=0
    )
    assert totals(circuit.events(PROCESS, period_s=PERIOD_S))[
        "stored_bit_s"
    ] == pytest.approx(20 * 6 * PERIOD_S)
    # Wires cost: a longer column integrates on more capacitance, with less noise.
    bare = with_process(wire_F_per_m=0.0)
    assert circuit.sum_F(bare) == SUM_F
    assert np.all(circuit.noise_variance(bare) > circuit.noise_variance(PROCESS))


def test_mismatch_is_that_of_the_unit_sources():
    design = layer(np.full((1, 1), 0.5))

    @jax.jit
    @jax.vmap
    def realized(key):
        return fabricate(design, PROCESS, key=key).weight.realized()[0, 0]

    values = realized(jr.split(jr.key(0), 20_000))
    # 31 unit sources in parallel, each 2 %·µm over its √area.
    sigma = 0.5 * PROCESS.matching["current"] / UNIT_M2**0.5 / 31**0.5
    assert_variance(values, sigma**2, excess=0.0)


def test_xor_is_learned_by_two_layers():
    x = jnp.asarray([[a, b] for a in (-0.5, 0.5) for b in (-0.5, 0.5)])
    wanted = jnp.asarray([-1.0, 1.0, 1.0, -1.0])
    a, b = jr.split(jr.key(3))
    make = lambda n_in, n_out, key: ChannelLayer(n_in, n_out, bits=6, key=key)
    net = (make(2, 6, a), make(6, 1, b))

    def out(net, process, key):
        x1 = net[0].apply(x, process=process, key=jr.fold_in(key, 0))
        return net[1].apply(x1, process=process, key=jr.fold_in(key, 1))[:, 0]

    def loss(net, key):
        chip = fabricate(net, PROCESS, key=key)
        return jnp.mean(jax.nn.softplus(-16 * wanted * out(chip, PROCESS, key)))

    optimizer = optax.adam(2e-2)

    @jax.jit
    def train(net):
        def update(carry, key):
            net, state = carry
            changes, state = optimizer.update(jax.grad(loss)(net, key), state)
            return (optax.apply_updates(net, changes), state), None

        keys = jr.split(jr.key(0), 300)
        return jax.lax.scan(update, (net, optimizer.init(net)), keys)[0][0]

    with jax.numpy_dtype_promotion("standard"):
        net = train(net)
    chip = jax.jit(lambda key: out(fabricate(net, PROCESS, key=key), PROCESS, key))
    for seed in range(20):
        np.testing.assert_array_equal(jnp.sign(chip(jr.key(seed))), wanted)


def site(width=6):
    return Site(width=width, process=PROCESS, key=jr.key(5), output_gain=0.5)


def test_block_mixes_over_time_only_behind_taps():
    xs = 0.3 * jr.normal(jr.key(0), (5, 6))
    for n_taps, reach in ((1, 1), (3, 3)):
        block = ChannelBlock(n_hidden=8, n_taps=n_taps).build(site())
        assert block.n_in == block.n_out == 6
        if n_taps > 1:
            (delay,) = (p for p in block.inputs.parts if isinstance(p, DelayLine))
            taps = jr.normal(jr.key(1), delay.tap.value.shape)
            block = eqx.tree_at(lambda b: b.inputs.parts[1].tap.value, block, taps)
        last = lambda xs, block=block: jnp.sum(
            run(block, xs, process=QUIET, key=jr.key(0))[-1]
        )
        reached = np.any(np.asarray(jax.jit(jax.grad(last))(xs)) != 0, axis=-1)
        np.testing.assert_array_equal(reached, np.arange(5) >= 5 - reach)


def test_the_control_has_as_many_weights():
    config = ChannelBlock(n_hidden=96, n_taps=3)
    count = lambda built: sum(
        leaf.size for leaf in jax.tree.leaves(eqx.filter(built, eqx.is_inexact_array))
    )
    ours, theirs = (
        count(c.build(site(32))) for c in (config, config.without_mechanism())
    )
    assert theirs == pytest.approx(ours, rel=0.05)


def test_a_layer_for_classifiers():
    layer = ChannelLayerConfig(n_out=7).build(12, site())
    assert (layer.n_in, layer.n_out) == (12, 7)


def test_diagnose_counts_channels_at_their_limit():
    circuit = layer([[0.1, 0.5], [0.3, 0.9]], bits=16)
    xs = jnp.broadcast_to(jnp.asarray([0.4, -0.4]), (3, 5, 2))
    found = circuit.diagnose(xs, process=QUIET, key=jr.key(0))
    assert found["limited"] == pytest.approx(0.5)
    assert found["clipped"] == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gain": 0.0}, r"`gain` must be positive, but is 0.0"),
        ({"leak": 1.0}, r"`leak` must be in \[0, 1\), but is 1.0"),
        ({"leak": -0.1}, r"`leak` must be in \[0, 1\), but is -0.1"),
        ({"bits": 1}, r"`bits`|`n_units`"),
    ],
)
def test_impossible_layers_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ChannelLayer(2, 2, **{"bits": 6, "key": jr.key(0), **change})
    with pytest.raises(ValueError, match=r"must be positive"):
        ChannelLayer(0, 2, bits=6, key=jr.key(0))


@pytest.mark.parametrize("field", ["n_hidden", "n_taps"])
def test_impossible_blocks_are_refused(field):
    with pytest.raises(ValueError, match=rf"`{field}` must be positive, but is 0"):
        dataclasses.replace(ChannelBlock(), **{field: 0})


@pytest.mark.needs_ngspice
def test_exported_columns_simulate_as_modeled(tmp_path):
    design = layer([[0.4, -0.2], [-0.3, 0.0], [0.9, 0.5]], offset=-0.1)
    chip = fabricate(design, PROCESS, key=jr.key(2))
    block = ChannelBlock(n_hidden=3, n_taps=2).build(site(2))
    folder = export((chip, block), PROCESS, tmp_path / "package", provenance={})
    verification = verify(folder, gates=("B1", "B2"))
    assert verification.passed, str(verification)
    checked = [check.name for check in verification.checks if check.gate == "B1"]
    assert sum("column0_sums" in name for name in checked) == 5


def test_a_signal_that_is_no_number_is_not_hidden_by_a_limit():
    x = jnp.asarray([[0.1, jnp.nan], [0.2, 0.3]])
    y = channel_sum(x, jnp.full((2, 3), 0.25))
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1]).all()
