"""Commands about hardware in the loop; `physnn.commands` lists them."""

import json as json_format
from pathlib import Path
from typing import Annotated

import tyro


def on_device(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    split: str = "test",
    windows: int = 0,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Score runs on the device their experiment names, beside our model of it.

    Args:
        runs: Run folders of one experiment with a `[hardware]` table.
        split: train, validation or test.
        windows: How many evenly spaced windows to score; 0 scores all.
        seed: Of the noise, and of our own chip.
        json: Print JSON.
    """
    from evals.on_device import score_on_device

    found = score_on_device(runs, split=split, windows=windows, seed=seed)
    print(json_format.dumps(found.to_json(), indent=2) if json else found)
    return 0


def serve_chip(
    experiment: Annotated[Path, tyro.conf.Positional],
    host: str = "127.0.0.1",
    port: int = 7070,
    nonlinearity: float = 0.0,
    coupling: float = 0.0,
    input_noise: float = 0.0,
    seed: int = 0,
    spice: bool = False,
) -> int:
    """Play a chip behind a socket, for hardware in the loop, until interrupted.

    Args:
        experiment: A run folder or an experiment's TOML file: what is on the chip.
        host: The address to listen at.
        port: The port to listen at; 0 takes a free one.
        nonlinearity: By how much every layer's transfer is wrong.
        coupling: Relative spread of every weight beside the process's mismatch.
        input_noise: What is added to the inputs of every layer [full scale, rms].
        seed: Of what is frozen on the chip.
        spice: Simulate the exported cells in ngspice; small layers only.
    """
    from evals.serve_chip import serve_chip as serve
    from train.devices import GapConfig

    if spice and (nonlinearity or coupling or input_noise):
        raise ValueError(
            "Cells in ngspice (`spice`) are as exported, but a deliberate gap is asked"
            " for, too: leave one out."
        )
    gap = GapConfig(
        nonlinearity=nonlinearity, coupling=coupling, input_noise=input_noise, seed=seed
    )
    serve(experiment, host=host, port=port, gap=gap, spice=spice)
    return 0


def characterize(
    pdk: str | None = None, cell: str = "all", out: Path | None = None
) -> int:
    """Measure the drawn cells in ngspice and keep them as a card for `export`.

    Writes configs/cells/<pdk>.toml: fitted transistors with their windows and errors,
    what each cell does, and its supply charge beside the price of our process card.

    Args:
        pdk: A PDK of configs/pdks, or the folder or library of its models; where none
            is given PHYSNN_PDK, then a package that is installed.
        cell: The cell to measure, or all.
        out: The card to write, if not configs/cells/<pdk>.toml.
    """
    from evals.characterize.card import characterize as measure

    print(measure(pdk, cell=cell, out=out))
    return 0
