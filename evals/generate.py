"""generate: text from a prompt, token by token, with the Joules it would take."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, Key

from physnn.energy import bill, load_prices
from physnn.fabricate import fabricate
from physnn.keys import stream
from physnn.materialized import compiled
from physnn.process import Process
from physnn.units import readable
from train.baseline import FlaxModel
from train.loop import load_run
from train.run_folder import symbols_of


class Generated(NamedTuple):
    """One token of text and the energy spent since the first one of the prompt."""

    token: int
    energy_J: float


@compiled
def _physical_step(chip, state, token, process: Process, key: Key[Array, ""]):
    return chip.step(state, token, process=process, key=key)


@compiled
def _window_logits(
    model, window: Int[Array, "1 time"], last, process: Process, key: Key[Array, ""]
) -> Float[Array, " vocabulary"]:
    return model.logits(window, process=process, key=key)[0, last]


def generate(
    model,
    prompt: Sequence[int],
    *,
    n_tokens: int,
    temperature: float,
    context: int,
    energy_per_token_J: float,
    process: Process,
    key: Key[Array, ""],
) -> Iterator[Generated]:
    """Sample `n_tokens` after the tokens of `prompt` from one chip, noise on.

    A physical model is stepped: its state is all it knows of the past. A transformer
    reads the last `context` tokens again for each; that is how it is computed
    here, while `energy_per_token_J` is that of its own bill, with a KV cache.

    Raises `ValueError` for an empty prompt or a temperature that is not positive.
    """
    if not len(prompt):
        raise ValueError("Argument `prompt` must hold at least one byte, but is empty.")
    if temperature <= 0:
        raise ValueError(
            f"Argument `temperature` must be positive, but is {temperature}."
        )
    chip = fabricate(model, process, key=stream(key, "chip"))
    text = [int(token) for token in prompt]
    stepped = hasattr(chip, "step")
    state, logits = (chip.init_state() if stepped else None), jnp.zeros(())
    fed = 0
    for i in range(n_tokens):
        noise_key = jr.fold_in(stream(key, "noise"), i)
        if stepped:
            for position in range(fed, len(text)):
                token = jnp.asarray(text[position], jnp.int32)
                token_key = jr.fold_in(noise_key, position)
                state, logits = _physical_step(chip, state, token, process, token_key)
            fed = len(text)
        else:
            window = text[-context:]
            last = len(window) - 1
            padded = window + [0] * (context - len(window))
            logits = _window_logits(
                chip, jnp.asarray([padded], jnp.int32), last, process, noise_key
            )
        sample_key = jr.fold_in(stream(key, "sample"), i)
        if stepped:
            drawn = chip.draw(
                logits, temperature=temperature, process=process, key=sample_key
            )
        else:
            drawn = jr.categorical(sample_key, logits / temperature)
        token = int(drawn)
        text.append(token)
        yield Generated(token, (len(text) - 1) * energy_per_token_J)


def print_generated(
    folder: str | Path,
    *,
    prompt: str,
    n_bytes: int,
    temperature: float,
    prices: str | None,
    seed: int,
) -> None:
    """Text on stdout as it comes, the running Joules on stderr.

    `prices` None takes `analog28` for a physical model, `sram2030` for a digital one.
    Raises what `load_run`, `load_prices` and `generate` raise.
    """
    run = load_run(folder)
    digital = isinstance(run.model, FlaxModel)
    listed = load_prices(prices or ("sram2030" if digital else "analog28"))
    # A digital model has no period of its own: it is as busy as a physical one.
    period_s = 1e-6 if digital else None
    per_token = bill(run.model, listed, process=run.process, period_s=period_s).total
    symbols = symbols_of(Path(folder))
    begin = symbols.encode(prompt.encode()).tolist()
    made = generate(
        run.model,
        begin,
        # As many as bytes, if each were one: it ends when there are enough bytes.
        n_tokens=n_bytes,
        temperature=temperature,
        context=run.experiment.task.context,
        energy_per_token_J=per_token.nominal,
        process=run.process,
        key=jr.key(seed),
    )
    energy_J, tokens, shown = 0.0, [], ""
    sys.stdout.write(prompt)
    # The running Joules: in the window's title, so that they never mix with the text.
    titled = sys.stderr.isatty()
    for token, energy_J in made:
        tokens.append(token)
        written = symbols.decode(tokens)
        # A token can be part of a character: print characters when they are whole.
        whole = written.decode("utf-8", "replace").rstrip("\ufffd")
        sys.stdout.write(whole[len(shown) :])
        sys.stdout.flush()
        shown = max(shown, whole, key=len)
        if titled:
            sys.stderr.write(f"\x1b]0;{readable(energy_J, 'J')}\x07")
        if len(written) >= n_bytes:
            break
    sys.stdout.write("\n")
    n_tokens = len(begin) + len(tokens) - 1
    print(
        f"{readable(energy_J, 'J')} for {n_tokens} tokens at {per_token} each"
        f" ({listed.name})",
        *listed.overrides,
        sep="\n",
        file=sys.stderr,
    )
