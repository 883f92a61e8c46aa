"""Laws that every circuit obeys, over the catalogue of `helpers.py`."""

from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.mac import ChargeMac
from physnn.bank import Bank
from physnn.circuit import run, run_stepwise
from physnn.energy.events import EVENTS
from physnn.fabricate import fabricate
from physnn.network import Chain
from tests.helpers import (
    CATALOGUE,
    CODES,
    PERIOD_S,
    PROCESS,
    QUIET,
    WITHOUT_NOISE,
    analog_C,
    banks,
    error_of,
    fabricate_jit,
    member,
    run_jit,
    signal,
    smooth,
    totals,
)

COMPOSED = {
    "GatedRCBlock",
    "GatedUnit",
    "OscillatorBlock",
    "Chain",
    "Parallel",
    "Residual",
}
every_circuit = pytest.mark.parametrize("name", CATALOGUE)


# Circuits made of others add no operation of their own, and running without jit
# compiles every operation alone.
@pytest.mark.parametrize("name", sorted(set(CATALOGUE) - COMPOSED))
def test_jit_changes_nothing(name):
    eager = run(member(name), signal(name), process=PROCESS, key=jr.key(1))
    jitted = run_jit(member(name), signal(name), process=PROCESS, key=jr.key(1))
    np.testing.assert_allclose(eager, jitted, rtol=1e-5, atol=1e-6)


@every_circuit
def test_batch_axes_are_a_loop_over_the_batch(name):
    xs = signal(name, batch=(2, 3))
    batched = run_jit(member(name), xs, process=QUIET, key=jr.key(1))
    assert batched.shape == (*xs.shape[:-1], member(name).n_out)
    for i, j in np.ndindex(2, 3):
        alone = run_jit(member(name), xs[:, i, j], process=QUIET, key=jr.key(1))
        np.testing.assert_allclose(batched[:, i, j], alone, rtol=1e-5, atol=1e-6)


@every_circuit
def test_scan_is_step_by_step(name):
    circuit, xs = member(name), signal(name)
    scanned = run_jit(circuit, xs, process=QUIET, key=jr.key(1))
    stepped = eqx.filter_jit(run_stepwise)(circuit, xs, process=QUIET, key=jr.key(2))
    np.testing.assert_allclose(scanned, stepped, rtol=1e-5, atol=1e-6)


@every_circuit
def test_a_split_sequence_is_one_sequence(name):
    circuit, xs = member(name), signal(name)
    whole = run_jit(circuit, xs, process=QUIET, key=jr.key(1))
    scan = eqx.filter_jit(
        lambda *args: circuit.scan(*args, process=QUIET, key=jr.key(1))
    )
    state, first = scan(circuit.init_state(xs.shape[1:-1]), xs[:3])
    _, second = scan(state, xs[3:])
    parts = jnp.concatenate([first, second])
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)


@every_circuit
def test_a_run_is_its_key(name):
    runs = [
        run_jit(member(name), signal(name), process=PROCESS, key=jr.key(seed))
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    silent = np.all(runs[0] == runs[2], axis=(0, 1))
    assert np.all(silent) if name in WITHOUT_NOISE else not np.any(silent)


@every_circuit
def test_noise_is_off_at_zero(name):
    a, b = (
        run_jit(member(name), signal(name), process=QUIET, key=jr.key(seed))
        for seed in (1, 2)
    )
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", sorted(set(CATALOGUE) - WITHOUT_NOISE))
def test_every_step_and_sample_draws_its_own_noise(name):
    xs = jnp.broadcast_to(signal(name)[:1, :1], signal(name).shape)
    noisy = run_jit(member(name), xs, process=PROCESS, key=jr.key(1))
    noise = noisy - run_jit(member(name), xs, process=QUIET, key=jr.key(1))
    assert not np.any(np.all(noise[1:] == noise[:-1], axis=-1))
    assert not np.any(np.all(noise[:, 0] == noise[:, 1], axis=-1))


@every_circuit
def test_a_perfect_process_fabricates_the_design(name):
    chip = fabricate(member(name), PROCESS.matched(), key=jr.key(1))
    assert eqx.tree_equal(chip, member(name))


@cache
def unit_errors(name, n_chips):
    """Frozen errors over their asked standard deviation: {path: (n_chips, devices)}.

    Devices without any unit in them (a value of zero) cannot err and are left out.
    """
    design = member(name)

    @jax.jit
    def draw(keys):
        chips = jax.vmap(lambda key: fabricate(design, PROCESS, key=key))(keys)
        errors = {path: bank.error for path, bank in banks(chips).items()}
        drawn = {
            path: (jnp.abs(bank.nominal()), bank.full_scale())
            for path, bank in banks(design).items()
        }
        return errors, drawn

    errors, drawn = jax.tree.map(np.asarray, draw(jr.split(jr.key(3), n_chips)))
    measured = {}
    for path, bank in banks(design).items():
        spread = PROCESS.matching[bank.kind] / bank.area_m2**0.5
        if bank.kind == "threshold":
            sigma = np.full(bank.value.shape, spread / PROCESS.swing_V)
        else:
            value, full_scale = drawn[path]
            # k units err by √k of one; one device alone in proportion to its value.
            unit = full_scale / bank.n_units
            units = value if bank.n_units == 1 else np.sqrt(value / unit) * unit
            sigma = units * spread
        assert np.all(errors[path][:, sigma == 0] == 0)
        measured[path] = (errors[path] / np.where(sigma, sigma, 1.0))[:, sigma > 0]
    return measured


@every_circuit
def test_measured_spread_is_the_asked_one(name):
    for path, z in unit_errors(name, 4000).items():
        n = z.size
        assert abs(z.std() - 1) < 3 / np.sqrt(2 * n), path
        assert abs(z.mean()) < 3 / np.sqrt(n), path


@every_circuit
def test_banks_err_independently(name):
    columns = np.concatenate(list(unit_errors(name, 4000).values()), axis=1)
    correlation = np.corrcoef(columns.T)
    np.fill_diagonal(correlation, 0)
    # 5 standard errors: up to some thousand pairs of devices are looked at.
    assert np.max(np.abs(correlation)) < 5 / np.sqrt(len(columns))


class Grown(eqx.Module):
    before: Bank | None
    design: eqx.Module
    after: Bank | None


@every_circuit
def test_another_bank_reseeds_no_other(name):
    extra = Bank(jnp.ones(5), kind="current", unit="A", area_m2=1e-12)
    small, large = (
        fabricate_jit(Grown(bank, member(name), bank), PROCESS, key=jr.key(4))
        for bank in (None, extra)
    )
    assert eqx.tree_equal(small.design, large.design)
    assert not np.array_equal(error_of(large.before), error_of(large.after))


@pytest.mark.parametrize("name", sorted(set(CATALOGUE) - CODES))
def test_gradient_is_the_difference_quotient(name):
    with jax.enable_x64(True):
        rng = np.random.default_rng(5)
        circuit = smooth(member(name))
        xs = 0.5 * rng.uniform(-1, 1, (5, 2, circuit.n_in))
        weights = rng.normal(size=(5, 2, circuit.n_out))
        arrays, rest = eqx.partition(
            (circuit, xs), lambda leaf: isinstance(leaf, jax.Array | np.ndarray)
        )
        leaves, tree = jax.tree.flatten(arrays)
        leaves = [np.asarray(leaf, np.float64) for leaf in leaves]
        ways = [rng.normal(size=leaf.shape) for leaf in leaves]

        def loss(leaves):
            circuit, xs = eqx.combine(jax.tree.unflatten(tree, leaves), rest)
            ys = run(circuit, xs, process=QUIET, key=jr.key(0))
            return jnp.sum(weights * ys)

        value_and_grad = jax.jit(jax.value_and_grad(loss))
        gradients = value_and_grad(leaves)[1]
        slope = sum(np.vdot(g, way) for g, way in zip(gradients, ways, strict=True))
        moved = lambda t: [v + t * w for v, w in zip(leaves, ways, strict=True)]

        def quotient_of(h):
            up, down = (value_and_grad(moved(step))[0] for step in (h, -h))
            return (up - down) / (2 * h)

        # Richardson: what is left of the curvature at h falls with h⁴.
        quotient = (4 * quotient_of(5e-6) - quotient_of(1e-5)) / 3
        assert abs(slope) > 1e-3
        np.testing.assert_allclose(slope, quotient, rtol=1e-6)


@every_circuit
def test_gradients_of_a_noisy_chip_are_finite(name):
    chip = fabricate_jit(member(name), PROCESS, key=jr.key(1))

    # Silence is the worst input: every root and quotient is at its edge there.
    @eqx.filter_jit
    def gradients(chip):
        f = lambda c: jnp.sum(
            run(c, 0 * signal(name), process=PROCESS, key=jr.key(2)) ** 2
        )
        return eqx.filter_grad(f)(chip)

    leaves = jax.tree.leaves(gradients(chip))
    assert leaves
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves)


@every_circuit
def test_no_output_depends_on_a_later_input(name):
    circuit, xs = member(name), signal(name)[:, 0]
    # Not their plain sum: that of a sampler's shares is always 1.
    weights = jnp.arange(1.0, circuit.n_out + 1)
    total = lambda xs: run(circuit, xs, process=QUIET, key=jr.key(1)) @ weights
    jacobian = np.asarray(jax.jit(jax.jacrev(total))(xs))
    influence = np.abs(jacobian).sum(-1)
    assert np.all(np.triu(influence, k=1) == 0)
    assert np.all(np.diag(influence) > 0)


@every_circuit
def test_events_come_from_shapes(name):
    built = member(name)
    events = built.events(PROCESS, period_s=PERIOD_S)
    grow = lambda leaf: 1.5 * leaf + 0.1 if eqx.is_inexact_array(leaf) else leaf
    others = {
        "other values": jax.tree.map(grow, built),
        "shapes alone": eqx.filter_eval_shape(CATALOGUE[name], jr.key(0)),
    }
    counts = totals(events)
    for what, other in others.items():
        other_events = other.events(PROCESS, period_s=PERIOD_S)
        assert [e[::2] for e in other_events] == [e[::2] for e in events], what
        other_counts = totals(other_events)
        charge = analog_C(other_events)
        analog = ("supply_charge_C", "amplifier_charge_C", "clock_charge_C")
        other_counts = {k: v for k, v in other_counts.items() if k not in analog}
        digital = {k: v for k, v in counts.items() if k not in analog}
        # Equal; but bits of a code that a size may shrink are counted in float32.
        assert other_counts == pytest.approx(digital, rel=1e-6, abs=0), what
        assert 0.3 < charge / analog_C(events) < 3, what


@every_circuit
def test_events_are_in_the_vocabulary_and_not_negative(name):
    events = member(name).events(PROCESS, period_s=PERIOD_S)
    assert {event.name for event in events} <= set(EVENTS)
    assert all(np.ndim(event.count) == 0 and event.count >= 0 for event in events)
    assert analog_C(events) > 0
    parts = [(event.name, event.part) for event in events]
    assert len(set(parts)) == len(parts), "two lines of a bill must be told apart"


@every_circuit
def test_events_add_up_in_a_chain(name):
    first = member(name)
    second = ChargeMac(first.n_out, 5, bits=4, process=PROCESS, key=jr.key(0))
    of = lambda circuit: totals(circuit.events(PROCESS, period_s=PERIOD_S))
    together = of(Chain([first, second]))
    for event, count in together.items():
        apart = of(first).get(event, 0.0) + of(second).get(event, 0.0)
        np.testing.assert_allclose(count, apart, rtol=1e-6)
    assert set(together) == set(of(first)) | set(of(second))
