"""The network of a trained run, as an export tries it on held-out text."""

import numpy as np

from physnn.export.top import MOST_TOKENS, Network
from train.loop import TrainedRun
from train.model import PhysicalModel, embedded
from train.tasks.text import TextConfig

# Held-out text starts somewhere inside: the first bytes of a file are often its title.
START = 2000


def network_of(run: TrainedRun, *, split: str) -> Network | None:
    """The blocks and the readout of a sequence model, and the stream of `split`.

    None for a model that is no sequence of blocks on text, for converters that are
    circuits (their codes are not driven but computed), for a block that reads the byte
    beside the stream, and where the text is not here.
    """
    model, task = run.model, run.experiment.task
    if not isinstance(model, PhysicalModel) or not isinstance(task, TextConfig):
        return None
    if model.dac is not None or any(b.n_in > b.n_out for b in model.stack.blocks):
        return None
    try:
        text = task.build()
    except (ValueError, OSError):
        return None
    tokens = np.asarray(text.tokens(split)[START:][:MOST_TOKENS], np.int32)
    if not len(tokens):
        return None
    return Network(
        blocks=model.stack.blocks,
        readout=(model.agc, model.head),
        stream=np.asarray(embedded(model, tokens)),
        period_s=model.config.period_s,
        text=f"{split} text from token {START} on",
    )
