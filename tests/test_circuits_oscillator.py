"""Phase oscillators: Adler, Kuramoto, jitter, differential equation, netlist."""

import math
from functools import partial
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits import oscillator_parts
from circuits.oscillator import PhaseOscillators
from circuits.oscillator_parts import TRIANGLE, coupling_shape, sincos, sources
from circuits.stuart_landau import StuartLandau
from evals.verify import verify
from physnn.circuit import run
from physnn.dynamics import Integrated, SolverConfig
from physnn.export.package import export
from physnn.fabricate import fabricate
from tests.helpers import (
    PERIOD_S,
    PROCESS,
    QUIET,
    assert_variance,
    error_of,
    run_jit,
    totals,
    with_process,
)
from tests.systems import (
    adler_beat,
    binary_phase,
    landau_amplitude,
    ou_variance,
    pairwise_pulls,
    ring_jitter_variance,
)

# `read` does not look at its inputs.
NO_INPUT = jnp.zeros(0)


def phases(n=4, **changes):
    arguments = {"period_s": PERIOD_S, "key": jr.key(0), "bits": None} | changes
    return PhaseOscillators(n, **arguments)


def tuned(cell, detuning):
    """The cell with each ring this far ahead of the reference [rad/token]."""
    value = 2 * math.pi * cell.cycles + jnp.asarray(detuning)
    return eqx.tree_at(lambda c: c.ring.value, cell, value)


def after(cell, theta, x, *, tokens, n_steps=64):
    """Phases after many tokens of the same input, never wrapped."""
    body = lambda _, theta: cell.settle(theta, x, n_steps=n_steps)
    return jax.lax.fori_loop(0, tokens, body, theta)


def test_a_ring_locks_inside_the_range_of_adler_and_beats_outside():
    detuning = jnp.asarray([-0.9, 0.5, 0.99, 1.2, -2.0, 1e-3])
    cell = tuned(phases(6, coupling="none", drive_rate=2.0), detuning)
    x = jnp.concatenate([jnp.full(6, 0.5), jnp.zeros(6)])  # a pull of 1 rad/token
    settled = after(cell, jnp.zeros(6), x, tokens=100)
    much_later = after(cell, settled, x, tokens=400)
    beat = (much_later - settled) / 400
    # Over a finite time a beat is counted to within a turn.
    expected = adler_beat(np.asarray(detuning), 1.0)
    np.testing.assert_allclose(beat, expected, atol=2 * math.pi / 400)
    locked = np.abs(detuning) < 1
    np.testing.assert_allclose(beat[locked], 0, atol=1e-4)
    np.testing.assert_allclose(
        np.sin(much_later[locked]), detuning[locked], rtol=1e-3, atol=1e-4
    )


def test_the_locked_phase_moves_as_adler_says():
    cell = phases(1, drive_rate=2.0)

    def locked(detuning, pull):
        x = jnp.stack([pull / 2, jnp.zeros(())])
        ring = tuned(cell, detuning[None])
        token = lambda theta, _: (ring.settle(theta, x), None)
        return jax.lax.scan(token, jnp.zeros(1), None, length=12)[0][0]

    slopes = jax.jit(jax.grad(locked, argnums=(0, 1)))(jnp.float32(0.6), jnp.float32(2))
    # θ = arcsin(Δ/p)
    across = math.sqrt(1 - 0.3**2)
    np.testing.assert_allclose(slopes, [0.5 / across, -0.15 / across], rtol=2e-3)


@pytest.mark.parametrize("ratio", [0.5, 0.95, 1.05, 1.5])
def test_a_pair_locks_at_half_its_detuning(ratio):
    pull = 0.7  # both ways: critical at a detuning of 1.4
    cell = phases(2)
    cell = eqx.tree_at(lambda c: c.couplings[0].value, cell, jnp.full((1, 2), pull))
    detuning = 2 * pull * ratio
    cell = tuned(cell, [detuning / 2, -detuning / 2])
    x = jnp.zeros(4)
    theta = after(cell, jnp.zeros(2), x, tokens=100)
    later = after(cell, theta, x, tokens=400)
    apart = (later - theta) @ jnp.asarray([1.0, -1.0]) / 400
    expected = adler_beat(detuning, 2 * pull)
    np.testing.assert_allclose(apart, expected, atol=2 * math.pi / 400)
    assert (abs(apart) < 1e-4) == (ratio < 1)
    np.testing.assert_allclose(jnp.mean(later), 0, atol=1e-2)


def test_second_harmonic_injection_drives_phases_to_0_or_pi():
    cell = phases(4, coupling="none", second_harmonic=0.8)
    start = jnp.asarray([0.3, -1.2, 1.5, 0.7])

    def total(theta):
        return cell.settle(theta, jnp.zeros(8), n_steps=64)

    theta, slope = jax.jvp(total, (start,), (jnp.ones(4),))
    expected = lambda at: binary_phase(1.0, start=at, locking=0.8)
    at = np.asarray(start, np.float64)
    np.testing.assert_allclose(theta, expected(at), rtol=1e-3)
    quotient = (expected(at + 1e-6) - expected(at - 1e-6)) / 2e-6
    np.testing.assert_allclose(slope, quotient, rtol=1e-2)
    far = after(cell, jnp.asarray([1.6, 1.5, -1.6, 3.0]), jnp.zeros(8), tokens=20)
    np.testing.assert_allclose(far, [math.pi, 0, -math.pi, math.pi], atol=1e-3)


@pytest.mark.parametrize("shape", [((1.0, 0.0),), TRIANGLE, ((0.8, 0.6), (0.3, -0.2))])
@pytest.mark.parametrize("coupling", ["dense", "local", "sparse"])
def test_two_products_are_the_sum_over_pairs(coupling, shape):
    cell = phases(7, coupling=coupling, degree=3, n_pool=3, shape=shape)
    theta = jr.uniform(jr.key(1), (10,), minval=-3.0, maxval=3.0)
    K = np.asarray(cell.pulls(0)(jnp.eye(10)))
    assert np.all(np.diag(K) == 0)
    assert np.count_nonzero(K[:7, :7]) == 7 * (6 if coupling == "dense" else 3)
    assert np.count_nonzero(K[7:, :7]) == 21, "the pool drives all others"
    assert np.count_nonzero(K[7:, 7:]) == 6
    assert np.all(K[:7, 7:] == 0), "and none of them acts back"
    rate = cell.rates()[0](theta, jnp.zeros(20))
    expected = pairwise_pulls(np.asarray(theta, np.float64), K, shape)
    np.testing.assert_allclose(rate, expected, rtol=1e-4, atol=1e-5)


@given(
    coupling=st.sampled_from(["dense", "local", "sparse"]),
    n=st.integers(2, 40),
    degree=st.integers(1, 39),
    seed=st.integers(0, 5),
)
@settings(deadline=None, max_examples=60)
def test_no_ring_is_wired_to_itself_or_twice(coupling, n, degree, seed):
    degree = min(degree, n - 1)
    wired = sources(coupling, n, degree, seed)
    assert wired.shape == (n - 1 if coupling == "dense" else degree, n)
    for i, column in enumerate(wired.T):
        assert len(set(column.tolist())) == len(column)
        assert i not in column
    if coupling == "local":
        apart = np.abs(wired - np.arange(n))
        assert np.max(np.minimum(apart, n - apart)) <= (degree + 1) // 2


def test_wire_by_wire_is_the_matrix(monkeypatch):
    cell, v = phases(9, coupling="sparse", degree=4), jr.normal(jr.key(1), (3, 9))
    by_matrix = cell.pulls(0)(v)
    monkeypatch.setattr(oscillator_parts, "DENSE_MAX", 8)
    np.testing.assert_allclose(cell.pulls(0)(v), by_matrix, rtol=1e-5, atol=1e-6)


def test_sine_and_cosine():
    theta = jnp.linspace(-40, 40, 20001)
    (s, c), (ds, dc) = jax.jvp(sincos, (theta,), (2 * jnp.ones_like(theta),))
    exact = np.asarray(theta, np.float64)
    np.testing.assert_allclose(s, np.sin(exact), atol=1e-6)
    np.testing.assert_allclose(c, np.cos(exact), atol=1e-6)
    np.testing.assert_array_equal(ds, 2 * c)
    np.testing.assert_array_equal(dc, -2 * s)


def test_jitter_is_the_bound_of_the_power_times_its_excess():
    cell = tuned(phases(64, coupling="none", cycles=5.0, ring_F=4e-15), jnp.zeros(64))
    xs = jnp.zeros((3, 400, 128))
    each = ring_jitter_variance(
        5.0,
        capacitance_F=4e-15,
        supply_V=PROCESS.supply_V,
        temperature_K=PROCESS.temperature_K,
        excess=PROCESS.thermal_noise * PROCESS.ring_excess,
    )
    state = cell.init_state((400,))
    _, thetas = eqx.filter_jit(cell._phases)(state, xs, process=PROCESS, key=jr.key(0))
    for token, theta in enumerate(thetas, start=1):
        assert_variance(theta.reshape(-1), token * each, excess=0.0)
    # Held by an injection of 2 rad per token it is an Ornstein-Uhlenbeck process.
    held = phases(64, coupling="none", drive_rate=2.0, ring_F=100e-15, n_steps=16)
    x = jnp.concatenate([jnp.ones(64), jnp.zeros(64)])
    drawn = jnp.broadcast_to(x, xs.shape)
    _, thetas = eqx.filter_jit(held._phases)(
        state, drawn, process=PROCESS, key=jr.key(1)
    )
    each = held.jitter_variance(PROCESS)
    expected = ou_variance(1.0, rate=2.0, stationary=each / 4)
    # Steps of finite length: their own variance is larger by half a step of decay.
    assert_variance(thetas[0].reshape(-1), expected * (1 + 2.0 / 16), sigmas=4.0)


def test_energy_and_jitter_are_one_size():
    cell = phases(4)
    grown = eqx.tree_at(lambda c: c.ring.size, cell, jnp.log(3.0))
    supply = lambda c: totals(c.events(PROCESS, period_s=PERIOD_S))["supply_charge_C"]
    rings = {
        size: next(e for e in c.events(PROCESS, period_s=PERIOD_S) if e.part == "rings")
        for size, c in ((1, cell), (3, grown))
    }
    np.testing.assert_allclose(rings[3].count, 3 * rings[1].count, rtol=1e-6)
    assert supply(grown) > 2.9 * supply(cell)
    variances = [c.jitter_variance(PROCESS) for c in (cell, grown)]
    np.testing.assert_allclose(variances[1], variances[0] / 3, rtol=1e-6)
    expected = 4 * cell.cycles * cell.ring_F * PROCESS.supply_V
    np.testing.assert_allclose(rings[1].count, expected, rtol=1e-6)
    spreads = [np.std(spread_of(c)) for c in (cell, grown)]
    np.testing.assert_allclose(spreads[1], spreads[0] / 3**0.5, rtol=1e-5)


def spread_of(cell):
    """Errors of a ring's phase per token, over chips [rad]."""
    draw = jax.vmap(lambda key: fabricate(cell, PROCESS, key=key).ring.error)
    return np.asarray(jax.jit(draw)(jr.split(jr.key(5), 2000)))


def test_the_spread_after_trim_turns_every_cycle():
    # Of the frequency, so a ring of more cycles per token errs by more in a token.
    for cycles in (4.0, 16.0):
        cell = phases(4, cycles=cycles)
        relative = PROCESS.matching["ring_frequency"] / math.sqrt(cell.ring.area_m2)
        assert_variance(
            spread_of(cell), (relative * 2 * math.pi * cycles) ** 2, excess=0.0
        )
    chip = fabricate(cell, PROCESS, key=jr.key(1))
    ahead = chip.detuning() - cell.detuning()
    np.testing.assert_allclose(ahead, error_of(chip.ring), atol=1e-4)


@pytest.mark.parametrize(
    "family", [phases, partial(phases, n_segments=2), StuartLandau]
)
def test_values_and_gradients_are_those_of_the_differential_equation(family):
    with jax.enable_x64(True):
        arguments = {"period_s": PERIOD_S, "key": jr.key(0), "bits": None}
        cell = family(3, **arguments, coupling_rate=1.0, drive_rate=3.0, n_steps=256)
        xs = 0.5 * jr.uniform(jr.key(1), (2, cell.n_in), minval=-1.0)
        referee = Integrated(cell, SolverConfig("dopri8", rtol=1e-9, atol=1e-10))
        weights = jr.normal(jr.key(2), (2, cell.n_out))

        def loss(arrays, circuit_of):
            circuit, xs = arrays
            ys = run(circuit_of(circuit), xs, process=QUIET, key=jr.key(0))
            return jnp.sum(weights * ys), ys

        found = {}
        for name, of in (
            ("fast", lambda c: c),
            ("diffrax", lambda c: eqx.tree_at(lambda r: r.circuit, referee, c)),
        ):
            solve = eqx.filter_value_and_grad(
                lambda arrays, of=of: loss(arrays, of), has_aux=True
            )
            (_, ys), slopes = eqx.filter_jit(solve)((cell, xs))
            found[name] = [ys, *jax.tree.leaves(slopes)]
        assert len(found["fast"]) == len(found["diffrax"])
        for ours, theirs in zip(*found.values(), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-5)


def test_half_a_step_leaves_a_quarter_of_the_error():
    cell = phases(12)
    x, start = 0.25 * jr.normal(jr.key(1), (40, 24)), cell.init_state((40,))
    settle = lambda n_steps: np.asarray(cell.settle(start, x, n_steps=n_steps))
    errors = [np.abs(settle(k) - settle(256)).mean() for k in (4, 8, 16)]
    for coarse, fine in pairwise(errors):
        assert 3.3 < coarse / fine < 4.9


def test_segments_follow_one_another():
    cell = phases(4, n_segments=2, n_steps=8)
    x, theta = 0.3 * jr.normal(jr.key(1), (8,)), jr.normal(jr.key(2), (4,))
    whole = cell.settle(theta, x)
    # Half a token of each: rates halved, for a token of four steps.
    for i in range(2):
        rate = cell.parts()[i].rates()[0]
        half = (lambda theta, x, rate=rate: rate(theta, x) / 2,)
        theta = cell.settle(theta, x, rates=half, n_steps=4)
    np.testing.assert_allclose(whole, theta, rtol=1e-5)
    with pytest.raises(ValueError, match="one segment to be one differential"):
        cell.drift(theta, x, process=PROCESS)


def test_outputs_are_relative_to_the_reference_ring():
    cell = phases(5, n_hidden=1, reference="ring")
    theta = jr.normal(jr.key(0), (5,))
    expected = np.asarray(theta[:3] - theta[4])
    y = cell.read(theta, NO_INPUT, process=QUIET)
    np.testing.assert_allclose(y, [*np.sin(expected), *np.cos(expected)], atol=1e-5)
    turned = cell.read(theta + 1.234, NO_INPUT, process=QUIET)
    np.testing.assert_allclose(y, turned, atol=1e-5)


def test_a_measured_coupling_is_its_fourier_series():
    phi = 2 * np.pi * np.arange(64) / 64
    rates = 3.0 + 2.0 * np.sin(phi) - 0.5 * np.cos(2 * phi) + 0.3 * np.sin(3 * phi)
    found = coupling_shape(rates, n_harmonics=3)
    np.testing.assert_allclose(found, [(1, 0), (0, -0.25), (0.15, 0)], atol=1e-12)
    triangle = 2 / np.pi * np.arcsin(np.sin(phi))
    found = coupling_shape(triangle, n_harmonics=3)
    np.testing.assert_allclose(found, TRIANGLE, atol=2e-3)
    with pytest.raises(ValueError, match="must have a first harmonic"):
        coupling_shape(np.sin(2 * phi), n_harmonics=2)
    with pytest.raises(ValueError, match="more than twice `n_harmonics` samples"):
        coupling_shape(rates[:6], n_harmonics=3)


def test_a_landau_oscillator_starts_up():
    cell = StuartLandau(
        1, period_s=PERIOD_S, key=jr.key(0), start=0.01, growth=3.0, n_steps=1
    )
    ys = run_jit(cell, jnp.zeros((4, 2)), process=QUIET, key=jr.key(0))
    expected = landau_amplitude(np.arange(1, 5), start=0.01, growth=3.0)
    np.testing.assert_allclose(2 * ys[:, 1], expected, rtol=1e-5)
    np.testing.assert_allclose(ys[:, 0], 0, atol=1e-6)
    figures = cell.diagnose(jnp.zeros((1, 2)), process=QUIET, key=jr.key(0))
    assert figures["share not started"] == 1.0


def test_strong_amplitude_control_leaves_phases():
    arguments = {"period_s": PERIOD_S, "bits": None, "drive_rate": 2.0}
    phase = PhaseOscillators(4, key=jr.key(0), **arguments)
    landau = StuartLandau(4, key=jr.key(0), growth=300.0, start=1.0, **arguments)
    landau = eqx.tree_at(lambda c: c.coupling.value, landau, phase.couplings[0].value)
    x = 0.3 * jr.normal(jr.key(1), (8,))
    v = landau.settle(landau.init_state(()), x, n_steps=2048)
    theta = phase.settle(phase.init_state(()), x, n_steps=64)
    np.testing.assert_allclose(jnp.arctan2(v[4:], v[:4]), theta, atol=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": 1.5}, "`start` must be from 0 to 1 amplitude, but is 1.5"),
        ({"growth": -1.0}, "`growth` must be positive, but is -1.0"),
        ({"ring_F": 0.0}, "`ring_F` must be positive, but is 0.0"),
    ],
)
def test_an_impossible_amplitude_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        StuartLandau(3, **{"period_s": PERIOD_S, "key": jr.key(0)} | changes)


def test_a_network_without_noise_or_first_harmonic():
    ys = [
        run_jit(phases(3), jnp.zeros((2, 6)), process=process, key=jr.key(0))
        for process in (QUIET, with_process(ring_excess=1e8))
    ]
    np.testing.assert_allclose(ys[0][:, 3:], 1.0, rtol=1e-6)
    assert np.any(np.abs(ys[1][:, 3:]) < 0.9)
    with pytest.raises(ValueError, match="must be finite, its first not 0"):
        phases(3, shape=((0.0, 0.0), (1.0, 0.0)))


@pytest.mark.needs_ngspice
@pytest.mark.parametrize("which", ["sine", "harmonics", "landau"])
def test_a_tile_simulates_as_the_model_says(which, tmp_path):
    circuit = {
        "sine": lambda: phases(5, second_harmonic=0.5, bits=6),
        "harmonics": lambda: phases(
            4,
            n_pool=1,
            n_segments=2,
            n_steps=4,
            reference="ring",
            shape=((0.9, 0.3), (0.0, 0.1), (-0.1, 0.0)),
        ),
        "landau": lambda: StuartLandau(3, period_s=PERIOD_S, key=jr.key(0)),
    }[which]()
    chip = fabricate(circuit, PROCESS, key=jr.key(3))
    folder = export((chip,), PROCESS, tmp_path / "package", provenance={})
    verification = verify(folder, gates=("B1", "B2"))
    assert verification.passed, str(verification)
    skipped = {check.name for check in verification.checks if check.status == "skipped"}
    assert skipped <= {"nothing was checked"}  # of a tile without the other gate
