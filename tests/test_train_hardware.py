"""Hardware in the loop: the device's value, the model's gradient, and what fails."""

import contextlib
import socketserver
import threading
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.blocks import MacLayer
from circuits.mac import ChargeMac
from circuits.parts import AutomaticGain
from evals.serve_chip import PlayedChip, chip_server
from evals.spice_chip import SpiceChip
from physnn.circuit import run
from physnn.network import Chain
from physnn.process import load_process
from tests.helpers import physical_config
from train.chip_protocol import ProtocolError, decode_array, encode, encode_array
from train.classifier import ClassifierConfig
from train.devices import DeviceError, GapConfig, HardwareInTheLoop, ServedConfig
from train.experiment import Experiment, save_experiment
from train.hardware import (
    circuits_in_the_loop,
    in_the_loop,
    on_device,
    physics_aware,
    plain_errors,
)
from train.served import ServedDevice
from train.tasks import ImagesConfig

PROCESS = load_process("cmos28")
EXACT = PROCESS.noiseless().matched()
CONFIG = ClassifierConfig(
    layers=(MacLayer(n_out=5, gain=1.0), MacLayer(n_out=3, gain=0.3)), n_pixels=6
)
PIXELS = jr.randint(jr.key(7), (4, 6), 0, 256)


def gap(**amounts: Any) -> GapConfig:
    """Nothing wrong but `amounts`."""
    none: dict[str, Any] = {"nonlinearity": 0.0, "coupling": 0.0, "input_noise": 0.0}
    return GapConfig(**none | amounts)


def classifier():
    return CONFIG.build(vocabulary=3, process=PROCESS, key=jr.key(0))


def logits(model, process=EXACT, key=jr.key(1)):
    arrays, static = eqx.partition(model, eqx.is_array)
    call = lambda a: eqx.combine(a, static).logits(PIXELS, process=process, key=key)
    return jax.jit(call)(arrays)


def gradient(model):
    def loss(model):
        y = model.logits(PIXELS, process=EXACT, key=jr.key(1))
        return jnp.sum(jnp.square(y))

    return eqx.filter_jit(eqx.filter_grad(loss))(model)


def test_the_value_is_the_devices_and_the_gradient_the_models():
    real = lambda x, rest: jnp.sin(1.1 * x) + rest
    model = lambda x, rest: jnp.sin(x) + rest
    through = physics_aware(real, model)
    x = jnp.asarray([0.3, -0.7])
    np.testing.assert_allclose(through(x, 2.0), np.sin(1.1 * x) + 2, rtol=1e-6)
    found = jax.grad(lambda x: jnp.sum(through(x, 2.0)))(x)
    np.testing.assert_allclose(found, np.cos(x), rtol=1e-6)
    # Two layers: the second model is differentiated where the first *device* went.
    chained = jax.grad(lambda x: jnp.sum(through(through(x, 0.0), 0.0)))(x)
    np.testing.assert_allclose(
        chained, np.cos(np.sin(1.1 * np.asarray(x))) * np.cos(x), rtol=1e-5
    )


def test_a_device_without_a_gap_is_the_model_with_its_gradient():
    model, none = classifier(), gap()
    looped = on_device(model, none.build())
    np.testing.assert_allclose(logits(looped), logits(model), atol=1e-6)
    ours, theirs = gradient(model), gradient(looped)
    pairs = zip(
        jax.tree.leaves(eqx.filter(ours, eqx.is_array)),
        jax.tree.leaves(eqx.filter(theirs, eqx.is_array)),
        strict=True,
    )
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert in_the_loop(model, HardwareInTheLoop("in_silico"), none.build()) is model


def test_the_gap_has_the_sizes_that_it_states():
    mac = ChargeMac(60, 50, bits=6, process=PROCESS, key=jr.key(0))
    quiet = {"process": EXACT, "key": jr.key(1)}
    # Weights: frozen, their own for every device, with the stated spread.
    chips = [
        gap(coupling=0.2, seed=seed).build().chip("a", mac, EXACT).weight
        for seed in (0, 0, 1)
    ]
    nominal = mac.weight.nominal()
    used = np.abs(nominal) > 0
    relative = (np.asarray(chips[0].realized()) - nominal)[used] / nominal[used]
    n = relative.size
    assert abs(np.std(relative) - 0.2) < 3 * 0.2 / np.sqrt(2 * n)
    assert abs(np.mean(relative)) < 3 * 0.2 / np.sqrt(n)
    np.testing.assert_array_equal(chips[0].error, chips[1].error)
    assert not np.allclose(chips[0].error, chips[2].error)
    # Inputs: white, new at every token.
    noise = gap(input_noise=0.02).build()
    gain = AutomaticGain(4)
    zeros = jnp.zeros((2000, 1, 4))
    y = noise.run("a", gain, zeros, **quiet)
    # Of a gain control at its floor, which sees the four inputs of a token together.
    power = np.mean(np.square(y), axis=-1)
    assert np.all(power > 0)
    assert not np.allclose(y[0], y[1])
    flat = gap(input_noise=0.02).build().run("a", _wire(), zeros, **quiet)
    limit = 3 * 0.02 / np.sqrt(2 * flat.size)
    assert abs(float(jnp.std(flat)) - 0.02) < limit
    # Transfer: slope 1.1 at the origin, the same full scale.
    xs = jnp.asarray([-1.0, -0.01, 0.0, 0.01, 1.0])[:, None, None]
    bent = gap(nonlinearity=0.1).build().run("a", _wire(1), xs, **quiet)[:, 0, 0]
    np.testing.assert_allclose(bent, [-1, -0.011, 0, 0.011, 1], atol=1e-6)


def _wire(n=4):
    """y = x: a MAC of one unit weight each way."""
    mac = ChargeMac(n, n, bits=8, process=PROCESS, key=jr.key(0))
    return eqx.tree_at(lambda m: m.weight.value, mac, jnp.eye(n))


def test_sequence_models_run_in_the_loop_and_refuse_single_steps():
    config = physical_config(width=8, n_layers=1, n_states=8, n_hidden=8)
    model = config.build(vocabulary=256, process=PROCESS, key=jr.key(0))
    none = gap().build()
    looped = on_device(model, none)
    assert list(circuits_in_the_loop(model)) == [*model.stack.names, "head"]
    tokens = jr.randint(jr.key(3), (2, 5), 0, 256)
    call = lambda m: m.logits(tokens, process=EXACT, key=jr.key(1))
    np.testing.assert_allclose(
        eqx.filter_jit(call)(looped), eqx.filter_jit(call)(model), atol=2e-3
    )
    with pytest.raises(ValueError, match="must be run as a whole sequence"):
        looped.head.step(None, jnp.zeros(8), process=EXACT, key=jr.key(0))
    with pytest.raises(ValueError, match="classifier or a physical sequence model"):
        circuits_in_the_loop(object())


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A chip of the small classifier behind a socket: its address, and the chip."""
    folder = tmp_path_factory.mktemp("chip")
    rng = np.random.default_rng(0)
    for part, n in (("train", 60), ("t10k", 20)):
        labels = np.arange(n) % 3
        _idx(folder / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (n, 2, 3)))
        _idx(folder / f"{part}-labels-idx1-ubyte", labels)
    experiment = Experiment(
        model=CONFIG, task=ImagesConfig(path=str(folder)), batch=4, steps=1
    )
    save_experiment(experiment, folder / "chip.toml")
    chip = PlayedChip(
        folder / "chip.toml", gap=gap(nonlinearity=0.1, coupling=0.2, seed=3)
    )
    server = chip_server(chip, host="127.0.0.1", port=0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}", folder
    server.shutdown()
    server.server_close()


def _idx(path, array):
    head = [0x800 + array.ndim, *array.shape]
    path.write_bytes(np.asarray(head, ">u4").tobytes() + array.astype("u1").tobytes())


def test_a_served_chip_is_the_simulated_one(played):
    """Through the socket comes what the same device gives inside, again and again."""
    address, _ = played
    served = ServedConfig(address=address).build()
    assert isinstance(served, ServedDevice)
    hello = served.hello()
    assert hello["circuits"]["layer0"] == {"n_in": 6, "n_out": 5}
    model = classifier()
    quiet = {"process": PROCESS, "key": jr.key(4)}
    outside = [logits(on_device(model, served), **quiet) for _ in range(2)]
    np.testing.assert_array_equal(*outside)
    inside, other = (
        logits(
            on_device(model, gap(nonlinearity=0.1, coupling=0.2, seed=seed).build()),
            PROCESS,
        )
        for seed in (3, 4)
    )
    # Its kT/C noise is drawn from another key, its weights are the same.
    near = np.max(np.abs(outside[0] - inside))
    assert near < 0.5 * np.max(np.abs(outside[0] - other))
    for wrong, sentence in (
        ({"circuit": "layer7"}, "must name a circuit of"),
        ({"circuit": "layer0", "program": {}}, "sent nothing for"),
    ):
        with pytest.raises(DeviceError, match=sentence):
            served._send(wrong)


def test_arrays_cross_the_wire_bit_for_bit_and_nonsense_is_refused():
    for array in (
        np.asarray(2.5, np.float32),
        np.arange(6, dtype=np.float32).reshape(2, 3),
    ):
        np.testing.assert_array_equal(decode_array(encode_array(array)), array)
    wrong = {"shape": [3], "float32": encode_array(np.zeros(2))["float32"]}
    for value in (None, {}, wrong, {"shape": [1], "float32": "no base64!"}):
        with pytest.raises(ProtocolError, match="sent"):
            decode_array(value)


@contextlib.contextmanager
def speaking(reply, *, wait_s=0.0):
    """A chip that gives `reply` to whatever it is asked; None hangs up."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            while self.rfile.readline():
                time.sleep(wait_s)
                if reply is None:
                    return
                with contextlib.suppress(OSError):
                    self.wfile.write(
                        reply if isinstance(reply, bytes) else encode(reply)
                    )

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


NAN = np.full((1, 4, 5), np.nan)
FAILURES = {
    "must answer, but hung up": (None, 0.0),
    "must answer, but sent a line that is no JSON": (b"hello\n", 0.0),
    "must answer, but sent an answer without `y`": ({"z": 1}, 0.0),
    "must answer, but said: too hot": ({"error": "too hot"}, 0.0),
    "must answer, but did not within 0.2 s": ({"y": 1}, 1.0),
    "must give outputs of shape": ({"y": encode_array(np.zeros((1, 4, 2)))}, 0.0),
    "gave 20 that are not finite": ({"y": encode_array(NAN)}, 0.0),
}


@pytest.mark.parametrize("sentence", FAILURES)
def test_what_a_chip_can_do_wrong_is_one_sentence(sentence):
    reply, wait_s = FAILURES[sentence]
    with speaking(reply, wait_s=wait_s) as address:
        device = ServedConfig(address=address, timeout_s=0.2).build()
        looped = on_device(classifier(), device)
        with pytest.raises(DeviceError, match=sentence), plain_errors(device):
            jax.block_until_ready(logits(looped))


def test_a_chip_that_is_not_there_is_one_sentence():
    device = ServedDevice("127.0.0.1:1", timeout_s=1.0)
    with pytest.raises(DeviceError, match=r"answer, but failed \(Connection refused"):
        device.hello()
    with pytest.raises(ValueError, match="must be HOST:PORT"):
        ServedConfig(address="localhost")


@pytest.mark.needs_ngspice
def test_ngspice_plays_a_layer_as_the_model_predicts_it():
    chain = Chain(
        [AutomaticGain(3), ChargeMac(3, 2, bits=6, process=PROCESS, key=jr.key(0))]
    )
    xs = np.asarray(jr.uniform(jr.key(1), (1, 2, 3), minval=-0.8, maxval=0.8))
    ys = SpiceChip().run(chain, xs, PROCESS)
    expected = run(chain, jnp.asarray(xs), process=EXACT, key=jr.key(0))
    np.testing.assert_allclose(ys, expected, atol=2e-4)
    with pytest.raises(ProtocolError, match="of which it takes at most 10"):
        SpiceChip(largest=10).run(chain, xs, PROCESS)
    with pytest.raises(ProtocolError, match="2 clocked stages in a row"):
        SpiceChip().run(Chain([chain, _wire(2)]), xs, PROCESS)
