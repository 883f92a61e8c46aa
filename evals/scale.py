"""Scale: a config grown to an asked number of parameters, known by its shapes alone.

The rule: all widths of a design grow by one factor, and its depth with the log of the
width of its residual stream, as in the best transformers of Levine et al. 2020 (arXiv
2006.12467): depth = (ln width − 5.039) / 0.0555, two residual blocks to a layer, but
never less than in the config. Parameters are all values a design holds, tables too.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.random as jr

from circuits.blocks.memory import MemoryBlock
from circuits.lookup_network import LookupNetworkLayer
from physnn.energy.events import Event
from physnn.process import Process, load_process
from train.baseline import TransformerConfig
from train.classifier import ClassifierConfig
from train.counts import CountsConfig
from train.experiment import ModelConfig
from train.image_baseline import ImageNetworkConfig
from train.model import PhysicalConfig

# Sizes of blocks that grow with the width. Heads, taps and the inputs of a table stay.
_GROWING = ("n_states", "n_hidden", "n", "n_tables", "n_later", "n_out", "row")
# What circuits/memory.py allows of a hashed memory: bits of its hash, values in a row.
MOST_INDEX_BITS, LONGEST_ROW = 24, 4096
# Rings that circuits/oscillator.py couples all to all; more stand in further layers.
MOST_DENSE_RINGS = 4096
# Channels of a head of attention, where the width allows.
HEAD = 128
TOLERANCE = 0.01
# Some hundred times the largest networks so far: beyond, no rule of growth is of use.
MOST_PARAMETERS = 1e15
# What has a rule by which it grows, and what has a size before any text was seen.
Growing = PhysicalConfig | TransformerConfig | ClassifierConfig
Sized = Growing | ImageNetworkConfig


def shapes_of(config: ModelConfig, *, vocabulary: int, process: Process) -> Any:
    """The design of a config as a tree of `jax.ShapeDtypeStruct`: it is never built.

    Raises `ValueError` for counted tables, whose size only a text tells.
    """
    config = _sized(config)
    if isinstance(config, TransformerConfig):
        return _transformer_shapes(config, vocabulary)
    return _shapes(config, vocabulary, process)


def _sized(config: ModelConfig) -> Sized:
    if isinstance(config, CountsConfig):
        raise ValueError(
            "A model of kind `counts` must be counted from a text to have a size: train"
            " it, and `physnn compare` bills the run."
        )
    return config


def _shapes(config: Sized, vocabulary: int, process: Process) -> Any:
    return eqx.filter_eval_shape(
        lambda: config.build(vocabulary=vocabulary, process=process, key=jr.key(0))
    )


@functools.lru_cache(maxsize=256)
def _transformer_shapes(config: TransformerConfig, vocabulary: int) -> Any:
    # A digital design knows no process.
    return _shapes(config, vocabulary, load_process("cmos28"))


class Unbuilt:
    """A design of any depth from the shapes of one layer and of two: all are alike.

    What a layer adds is the difference of the two, taken as often as there are layers:
    of parameters, and of a transformer's events. Blocks of a circuit are alike in
    size, not in charge: their output gain shrinks with their number.
    """

    def __init__(self, config: ModelConfig, *, vocabulary: int, process: Process):
        name = {TransformerConfig: "n_blocks", PhysicalConfig: "n_layers"}.get(
            type(config)
        )
        self.n_layers = 1 if name is None else getattr(config, name)
        trials = [config]
        if name is not None:
            trials = [dataclasses.replace(config, **{name: n}) for n in (1, 2)]
        self.designs = tuple(
            shapes_of(trial, vocabulary=vocabulary, process=process) for trial in trials
        )

    def total(self, of: Callable[[Any], float]) -> float:
        """`of` the whole design, where it is a sum over layers and what is beside."""
        first, *second = (of(design) for design in self.designs)
        return float(first + (self.n_layers - 1) * sum(n - first for n in second))

    @property
    def parameters(self) -> int:
        """All values the design holds."""
        return round(self.total(count_parameters))

    def events(self, process: Process, *, period_s: float) -> tuple[Event, ...]:
        """What a step of a transformer makes happen."""
        first, *second = (
            _counted(design.events(process, period_s=period_s))
            for design in self.designs
        )
        last = second[0] if second else first
        more = self.n_layers - 1
        return tuple(
            Event(key[0], one + more * (last[key] - one), *key[1:])
            for key, one in first.items()
        )


def _counted(events) -> dict[tuple[str, str, float, float | None], float]:
    counts: dict[tuple[str, str, float, float | None], float] = {}
    for event in events:
        key = (event.name, event.part, event.active, event.bits)
        counts[key] = counts.get(key, 0.0) + float(event.count)
    return counts


def count_parameters(design: Any) -> int:
    """All values that a design, built or not, holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(design))


def grown(
    config: ModelConfig, parameters: float, *, vocabulary: int, process: Process
) -> Growing:
    """`config` with about `parameters` values (within 1 %), by the rule of this module.

    Raises `ValueError` where no size of this kind has that many.
    """
    if not 1 <= parameters <= MOST_PARAMETERS:
        raise ValueError(
            f"Argument `parameters` must be from 1 to {MOST_PARAMETERS:g}, but is"
            f" {parameters:g}."
        )

    config = _sized(config)
    if not isinstance(config, Growing):
        raise ValueError(
            "Argument `parameters` must be left out of a model of kind"
            f" `{config.kind}`: no rule says how one grows."
        )

    def held(trial: Growing) -> float:
        unbuilt = Unbuilt(trial, vocabulary=vocabulary, process=process)
        return float(unbuilt.parameters)

    factor = math.sqrt(parameters / held(_scaled(config, 1.0)))
    # First with the depth that follows the width, to find that depth; then with it.
    for _ in range(8):
        found = held(_scaled(config, factor))
        factor *= math.sqrt(parameters / found)
        if abs(found / parameters - 1) < 0.1:
            break
    depth, bits = _depth(config, factor), _more_bits(factor)
    best, off = config, math.inf
    last = None
    for _ in range(40):
        trial = _scaled(config, factor, depth=depth, more_bits=bits)
        if trial == last:
            break
        last = trial
        found = held(trial)
        if abs(found / parameters - 1) < off:
            best, off = trial, abs(found / parameters - 1)
        if off < TOLERANCE / 2:
            break
        factor *= (parameters / found) ** 0.5
    if isinstance(best, TransformerConfig):
        best = _fitted(best, parameters, held)
        off = abs(held(best) / parameters - 1)
    if off > TOLERANCE:
        raise ValueError(
            f"Argument `parameters` must be one that this design can have within"
            f" {TOLERANCE:.0%}, but {parameters:.3g} is not: the nearest is"
            f" {held(best):.3g}."
        )
    return best


def _depth(config: Growing, factor: float) -> int:
    """Layers at `factor` times the width."""
    if isinstance(config, ClassifierConfig):
        return len(config.layers)
    law = (math.log(config.width * factor) - 5.039) / 0.0555
    if isinstance(config, TransformerConfig):
        return max(config.n_blocks, round(law))
    return max(config.n_layers, round(2 * law / len(config.layer)))


def _more_bits(factor: float) -> int:
    """Bits more of an index, so that a table's rows grow with the width."""
    return round(math.log2(factor))


def _scaled(
    config: Growing,
    factor: float,
    *,
    depth: int | None = None,
    more_bits: int | None = None,
) -> Growing:
    """`config` with `factor` times its widths."""
    depth = _depth(config, factor) if depth is None else depth
    more_bits = _more_bits(factor) if more_bits is None else more_bits
    if isinstance(config, TransformerConfig):
        return _scaled_transformer(config, factor, depth)
    if isinstance(config, ClassifierConfig):
        *inner, last = config.layers
        if len(config.layers) > 1 and hasattr(last, "n_out"):
            layers = [_scaled_block(each, factor, more_bits) for each in inner]
            return dataclasses.replace(config, layers=(*layers, last))
        layers = [_scaled_block(each, factor, more_bits) for each in config.layers]
        return dataclasses.replace(config, layers=tuple(layers))
    step = max(getattr(block, "n_groups", 1) for block in config.layer)
    return dataclasses.replace(
        config,
        width=_multiple(config.width * factor, step),
        n_layers=depth,
        layer=tuple(_scaled_block(each, factor, more_bits) for each in config.layer),
    )


def _scaled_block(block: Any, factor: float, more_bits: int) -> Any:
    step = getattr(block, "n_groups", 1)
    if isinstance(block, LookupNetworkLayer):
        # Whole groups of pins, and as many tables for every class.
        step = math.lcm(block.group // math.gcd(block.group, block.k), block.n_classes)
    sizes = {
        name: _multiple(getattr(block, name) * factor, step)
        for name in _GROWING
        if getattr(block, name, 0)
    }
    if block.kind == "oscillator" and block.coupling == "dense":
        sizes["n"] = min(sizes["n"], MOST_DENSE_RINGS)
    if isinstance(block, MemoryBlock):
        bits = min(max(1, block.index_bits + more_bits), MOST_INDEX_BITS)
        sizes |= {"index_bits": bits, "row": min(sizes["row"], LONGEST_ROW)}
    return dataclasses.replace(block, **sizes)


def _scaled_transformer(
    config: TransformerConfig, factor: float, depth: int
) -> TransformerConfig:
    """As many heads as give each `HEAD` channels, and the ratios of the config."""
    width = config.width * factor
    kv_heads = config.n_kv_heads
    if config.n_kv_heads:
        # What was asked for stays; more query heads share each.
        shared = max(1, round(width / HEAD / kv_heads))
        n_heads = kv_heads * shared
    else:
        n_heads = max(1, round(width / HEAD))
    return dataclasses.replace(
        config,
        width=_multiple(width, 2 * n_heads),
        n_heads=n_heads,
        n_blocks=depth,
        n_hidden=max(1, round(config.n_hidden * factor)),
    )


def _fitted(config: TransformerConfig, parameters: float, held) -> TransformerConfig:
    """The rest goes to the MLP: widths come in steps of two channels per head."""
    more = dataclasses.replace(config, n_hidden=config.n_hidden + 64)
    here = held(config)
    each = (held(more) - here) / 64
    n_hidden = max(1, round(config.n_hidden + (parameters - here) / each))
    return dataclasses.replace(config, n_hidden=n_hidden)


def _multiple(value: float, step: int) -> int:
    return max(1, round(value / step)) * step
