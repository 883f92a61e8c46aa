"""Commands about data; `physnn.commands` lists them."""

import json as json_format
import os
from pathlib import Path
from typing import Annotated, Literal

import tyro


def prepare(
    corpus: Annotated[str, tyro.conf.Positional],
    out: Path,
    tokenizer: str = "byte",
    train_tokenizer: Literal["bpe"] | None = None,
    vocabulary: int | None = None,
    column: str | None = None,
    workers: int | None = None,
    quiet: bool = False,
    json: bool = False,
) -> int:
    """Tokenize a corpus once, in parallel, for training; a stopped one is continued.

    Args:
        corpus: A file or folder of text, .jsonl, .parquet or .arrayrecord (also .gz),
            or hf:NAME[:CONFIG][@REVISION] of Hugging Face, streamed.
        out: The folder to write; `task.path` of an experiment reads it.
        tokenizer: byte, char, or a file: tokenizer.json, a SentencePiece .model.
        train_tokenizer: Learn byte-pair merges from the training split instead.
        vocabulary: How many tokens to learn; 4096 where it is not said.
        column: The field of a record that is its text; text, or the only one.
        workers: Processes that tokenize; one for every core.
        quiet: No progress bar.
        json: Print the manifest.
    """
    from train.corpus.prepare import Preparation, summary
    from train.corpus.prepare import prepare as prepare_corpus

    if vocabulary is not None and train_tokenizer is None:
        raise ValueError(
            "Argument `vocabulary` goes with a tokenizer that is trained, but none is:"
            " give --train-tokenizer bpe, or leave it out."
        )
    trained = (vocabulary or 4096) if train_tokenizer else None
    how = Preparation(tokenizer=tokenizer, trained=trained, column=column)
    cores = workers if workers is not None else os.cpu_count() or 1
    found = prepare_corpus(corpus, out, how, workers=cores, progress=not quiet)
    print(json_format.dumps(found, indent=2) if json else summary(found, out))
    return 0
