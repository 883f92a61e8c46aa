"""The peak memory of a training step grows linearly with a window, to 4,096 bytes.

Of the plainest model of two dynamic families; `make bench` has every family as it is
trained.
"""

import pytest

from circuits.blocks.resonator import ResonatorBlock
from circuits.blocks.state_space import GatedRCBlock
from tests.benchmarks.memory import exponent, peak_bytes
from train.baseline import TransformerConfig
from train.experiment import Experiment
from train.model import PhysicalConfig
from train.tasks import TextConfig

# Nine training steps are compiled.
pytestmark = [pytest.mark.usefixtures("plain_promotion"), pytest.mark.slow]


def grows_as(model) -> float:
    # Long enough that signals outgrow the draws of matrices of fixed size.
    experiment = Experiment(name="memory", model=model, task=TextConfig(), batch=2)
    return exponent({n: peak_bytes(experiment, length=n) for n in (256, 1024, 4096)})


BLOCKS = (GatedRCBlock(n_states=8, n_taps=2), ResonatorBlock(n=8, n_taps=2))


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.kind)
def test_of_a_physical_model_linearly(block):
    grown = grows_as(PhysicalConfig(width=8, n_layers=1, layer=(block,)))
    assert grown == pytest.approx(1, abs=0.05)


def test_of_attention_faster():
    # The same measure sees what is not linear.
    grown = grows_as(TransformerConfig(width=8, n_blocks=1, n_heads=2, n_hidden=8))
    assert grown > 1.5
