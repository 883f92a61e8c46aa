"""Serve a chip: play one of a run's chips behind a socket, for hardware in the loop."""

import math
import socketserver
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np

from evals.spice_chip import SpiceChip
from physnn.circuit import AbstractCircuit
from physnn.materialized import compiled
from physnn.process import load_process
from train.chip_protocol import (
    LONGEST,
    PROTOCOL,
    ProtocolError,
    decode,
    decode_array,
    encode,
    encode_array,
)
from train.counts import CountsConfig
from train.devices import GapConfig
from train.experiment import load_experiment
from train.hardware import circuits_in_the_loop


class PlayedChip:
    """A chip of an experiment's model, with its own mismatch and what `gap` adds.

    With `spice` it is the exported cells in ngspice instead: no noise, no mismatch.
    """

    def __init__(self, experiment: str | Path, *, gap: GapConfig, spice: bool = False):
        self.spice = SpiceChip() if spice else None
        path = Path(experiment)
        path = path / "experiment.toml" if path.is_dir() else path
        asked = load_experiment(path)
        self.process = load_process(asked.process)
        if isinstance(asked.model, CountsConfig):
            raise ValueError("Counts are no circuit, so there is no chip to play.")
        model = asked.model.build(
            vocabulary=asked.task.build().vocabulary,
            process=self.process,
            key=jr.key(0),
        )
        self.circuits = circuits_in_the_loop(model)
        self.device = gap.build()
        self._run = compiled(
            lambda name, circuit, xs, key: self.device.run(
                name, circuit, xs, process=self.process, key=key
            )
        )

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """The answer to a message; `{"error": ...}` for one it cannot follow."""
        if "hello" in message:
            sizes = {
                name: {"n_in": circuit.n_in, "n_out": circuit.n_out}
                for name, circuit in self.circuits.items()
            }
            return {"hello": PROTOCOL, "circuits": sizes}
        try:
            circuit = self._programmed(message)
            xs = decode_array(message.get("x"))
            if xs.ndim != 3 or xs.shape[-1] != circuit.n_in:
                raise ProtocolError(
                    f"sent inputs of shape {xs.shape} to a circuit of {circuit.n_in}"
                )
            seed = message.get("seed", 0)
            if type(seed) is not int or not 0 <= seed < 1 << 32:
                raise ProtocolError("sent a seed that is no number of 32 bits")
            if self.spice is not None:
                return {"y": encode_array(self.spice.run(circuit, xs, self.process))}
        except ProtocolError as error:
            return {"error": f"the other end {error}"}
        ys = self._run(message["circuit"], circuit, jnp.asarray(xs), jr.key(seed))
        return {"y": encode_array(np.asarray(ys))}

    def _programmed(self, message: dict[str, Any]) -> AbstractCircuit:
        """The circuit that is asked, with the values that it is to hold."""
        name, program = message.get("circuit"), message.get("program")
        if name not in self.circuits or not isinstance(program, dict):
            raise ProtocolError(
                f"must name a circuit of {sorted(self.circuits)} and its program, but"
                f" named {name!r}"
            )
        circuit = self.circuits[name]
        values = {path: decode_array(value) for path, value in program.items()}

        def put(path, leaf):
            if not eqx.is_inexact_array(leaf):
                return leaf
            value = values.pop(jtu.keystr(path), None)
            if value is None or value.shape != leaf.shape:
                found = "nothing" if value is None else f"shape {value.shape}"
                raise ProtocolError(
                    f"sent {found} for {jtu.keystr(path)} of shape {leaf.shape}"
                )
            return jnp.asarray(value)

        whole = jtu.tree_map_with_path(put, circuit)
        if values:
            raise ProtocolError(f"sent {sorted(values)}, which `{name}` does not have")
        return whole


def chip_server(
    chip: PlayedChip, *, host: str, port: int
) -> socketserver.ThreadingTCPServer:
    """A server that answers for `chip`; port 0 takes a free one. Not started yet.

    Listens on one address of this machine and runs nothing that is sent: messages are
    JSON. Raises `OSError` for an address that is taken.
    """

    class Conversation(socketserver.StreamRequestHandler):
        def handle(self):
            while line := self.rfile.readline(LONGEST):
                try:
                    answer = chip.answer(decode(line))
                except ProtocolError as error:
                    answer = {"error": f"the other end {error}"}
                self.wfile.write(encode(answer))

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True

    return Server((host, port), Conversation)


def serve_chip(
    experiment: Path, *, host: str, port: int, gap: GapConfig, spice: bool
) -> None:
    """Play a chip until it is interrupted; prints where it listens."""
    chip = PlayedChip(experiment, gap=gap, spice=spice)
    with chip_server(chip, host=host, port=port) as server:
        address = f"{host}:{server.server_address[1]}"
        weights = sum(
            math.prod(leaf.shape)
            for circuit in chip.circuits.values()
            for leaf in jax.tree.leaves(eqx.filter(circuit, eqx.is_inexact_array))
        )
        print(
            f"A chip with {weights:,} values in {len(chip.circuits)} circuits listens"
            f" at {address}.",
            flush=True,
        )
        server.serve_forever()
