"""The conventional network of images: shapes, rounding, bill, training."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flax import nnx

from physnn.energy import bill, load_prices
from tests.helpers import PROCESS
from train.experiment import ConfigError, from_table, to_table
from train.image_baseline import ImageNetwork, ImageNetworkConfig

TINY = ImageNetworkConfig(side=6, convolutions=(3, 4), hidden=(5,))
IMAGES = jr.randint(jr.key(1), (7, 36), 0, 256)


def build(config=TINY):
    return config.build(vocabulary=3, process=PROCESS, key=jr.key(0))


def logits(model):
    return model.logits(IMAGES, process=PROCESS, key=jr.key(0))


def test_parameters_are_those_of_the_shapes():
    # 6 -> 3 -> 2 pixels: 4 channels of 2 x 2 into 5 units into 3 classes.
    weights = 9 * 3 + 9 * 3 * 4 + 16 * 5 + 5 * 3
    leaves = jax.tree.leaves(build().params)
    assert sum(leaf.size for leaf in leaves) == weights + 3 + 4 + 5 + 3
    assert logits(build()).shape == (7, 1, 3)


def test_a_dense_network_is_matrix_products_of_normalized_pixels():
    config = dataclasses.replace(TINY, convolutions=(), hidden=(), bits=16)
    model = build(config)
    module = nnx.merge(model.graphdef, model.params)
    assert isinstance(module, ImageNetwork)
    x = (np.asarray(IMAGES) / 255 - 0.286) / 0.353
    expected = x @ np.asarray(module.kernels[0][...])
    np.testing.assert_allclose(logits(model)[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_weights_are_what_a_code_of_so_many_bits_holds():
    for bits in (3, 8):
        model = build(dataclasses.replace(TINY, bits=bits))
        module = nnx.merge(model.graphdef, model.params)
        assert isinstance(module, ImageNetwork)
        for kernel in module.kernels:
            weight = np.asarray(module.rounded(kernel[...]))
            flat = weight.reshape(-1, weight.shape[-1])
            steps = flat / np.abs(flat).max(axis=0) * (2 ** (bits - 1) - 1)
            np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    plain = logits(build(dataclasses.replace(TINY, bits=16)))
    errors = [
        float(
            jnp.mean(jnp.abs(logits(build(dataclasses.replace(TINY, bits=b))) - plain))
        )
        for b in (4, 8)
    ]
    assert 0 < errors[1] < 0.2 * errors[0]


def test_an_image_is_billed_for_every_product_byte_and_pixel():
    model = build()
    found = {}
    for event in model.events(PROCESS, period_s=1e-6):
        found[event.name] = found.get(event.name, 0) + event.count
    # 9 and 4 places of the kernels.
    assert found["mac"] == 9 * 27 + 4 * 108 + 80 + 15
    assert found["weight_byte"] == sum(x.size for x in jax.tree.leaves(model.params))
    assert found["activation_byte"] == 36 + 27 + 16 + 5 + 3
    assert found["elementwise"] == 27 + 16 + 5
    # Pixels of 8 bits, and the class in and out as 2.
    assert found["io_bit"] == 8 * 36 + 2 * 2
    assert found["stored_bit_s"] == pytest.approx(8e-6 * found["weight_byte"])
    half = build(dataclasses.replace(TINY, bits=4))
    prices = load_prices("sram2030")
    both = [bill(m, prices, process=PROCESS, period_s=1e-6) for m in (model, half)]
    lines = [ledger.by_line()["weights"].nominal for ledger in both]
    assert lines[1] < 0.51 * lines[0]


def test_the_gradient_reaches_every_parameter():
    model = build()
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    loss = lambda arrays: jnp.sum(logits(eqx.combine(arrays, rest)) ** 2)
    for leaf in jax.tree.leaves(jax.grad(loss)(arrays)):
        assert np.all(np.isfinite(leaf))
        assert np.any(leaf != 0)


def test_it_goes_with_images_and_its_sizes_are_checked():
    table = {"model": {"kind": "image_network", "hidden": []}}
    with pytest.raises(ConfigError, match="goes with a task of kind `images`"):
        from_table(table)
    table["task"] = {"kind": "images", "path": "x"}  # pyright: ignore
    experiment = from_table(table)
    assert experiment.chips == 0
    assert from_table(to_table(experiment)) == experiment
    for wrong in ({"bits": 1}, {"bits": 17}, {"hidden": [0]}, {"side": 0}):
        with pytest.raises(ConfigError, match="must"):
            from_table(table | {"model": {"kind": "image_network", **wrong}})
