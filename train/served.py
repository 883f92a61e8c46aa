"""A chip behind a socket: the device that asks it."""

import socket
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array

from physnn.circuit import AbstractCircuit
from train.chip_protocol import (
    LONGEST,
    PROTOCOL,
    ProtocolError,
    decode,
    decode_array,
    encode,
    encode_array,
)
from train.devices import DeviceError, words


class HostDevice:
    """What every device outside JAX shares: the callback, and what comes back checked.

    `ask(name, circuit, program, xs, seed)` gives the outputs as numpy array, or raises
    `DeviceError`. What was raised stays in `failure`: JAX wraps it on the way.
    """

    def __init__(self, ask, *, called: str):
        self.ask, self.called = ask, called
        self.failure: DeviceError | None = None

    def run(self, name, circuit, xs, *, process, key):
        """`Device.run` by `jax.pure_callback`; one call after the other."""
        del process  # the device has its own
        shape = (*xs.shape[:-1], circuit.n_out)
        arrays = programmed(circuit)

        def callback(program, xs, seed):
            try:
                program = {k: np.asarray(v) for k, v in program.items()}
                ys = self.ask(name, circuit, program, np.asarray(xs), int(seed))
                return self.checked(name, ys, shape)
            except DeviceError as error:
                self.failure = error
                raise

        answer = jax.ShapeDtypeStruct(shape, jnp.float32)
        return jax.pure_callback(
            callback, answer, arrays, xs, words(key), vmap_method="sequential"
        )

    def checked(self, name: str, ys: Any, shape: tuple[int, ...]) -> np.ndarray:
        """The outputs, if they are numbers of the right shape."""
        ys = np.asarray(ys, np.float32)
        if ys.shape != shape:
            raise DeviceError(
                f"The {self.called} must give outputs of shape {shape} for circuit"
                f" `{name}`, but gave {ys.shape}: does it play the same experiment?"
            )
        if not np.isfinite(ys).all():
            raise DeviceError(
                f"The {self.called} must give numbers for circuit `{name}`, but gave"
                f" {int(np.sum(~np.isfinite(ys)))} that are not finite."
            )
        return ys


def programmed(circuit: AbstractCircuit) -> dict[str, Array]:
    """What a circuit is programmed with: its trained arrays by path."""
    values = eqx.filter(circuit, eqx.is_inexact_array)
    paths = jtu.tree_leaves_with_path(values)
    # A frozen error is a chip's own, never something that is written to it.
    own = (".error", ".follow", ".shift", ".unknown")
    return {
        jtu.keystr(path): leaf
        for path, leaf in paths
        if not jtu.keystr(path).endswith(own)
    }


class ServedDevice(HostDevice):
    """The chip at `address`, asked by the protocol of `train.chip_protocol`.

    Connects when it is first asked. Raises `DeviceError`, a sentence, for a chip that
    is not there, does not answer in time, hangs up or answers nonsense.
    """

    def __init__(self, address: str, *, timeout_s: float):
        super().__init__(self._exchange, called=f"chip at {address}")
        self.address, self.timeout_s = address, timeout_s
        self._file = None

    def _exchange(self, name, circuit, program, xs, seed):
        del circuit
        message = {
            "circuit": name,
            "seed": seed,
            "program": {path: encode_array(value) for path, value in program.items()},
            "x": encode_array(xs),
        }
        answer = self._send(message)
        try:
            return decode_array(answer["y"])
        except KeyError:
            raise self._wrong("sent an answer without `y`") from None
        except ProtocolError as error:
            raise self._wrong(str(error)) from error

    def hello(self) -> dict[str, Any]:
        """What the chip says about itself: its protocol and its circuits."""
        return self._send({"hello": PROTOCOL})

    def close(self) -> None:
        """Hang up; the next question connects again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _send(self, message):
        try:
            if self._file is None:
                self._file = self._connect()
            self._file.write(encode(message))
            self._file.flush()
            line = self._file.readline(LONGEST)
            if not line.endswith(b"\n"):
                raise self._wrong("hung up")
            answer = decode(line)
        except TimeoutError as error:
            raise self._wrong(f"did not within {self.timeout_s:g} s") from error
        except OSError as error:
            raise self._wrong(f"failed ({error.strerror or error})") from error
        except ProtocolError as error:
            raise self._wrong(str(error)) from error
        if "error" in answer:
            raise self._wrong(f"said: {str(answer['error'])[:200]}")
        return answer

    def _connect(self):
        host, _, port = self.address.rpartition(":")
        connection = socket.create_connection((host, int(port)), timeout=self.timeout_s)
        with connection:
            return connection.makefile("rwb")

    def _wrong(self, what: str) -> DeviceError:
        self.close()
        return DeviceError(
            f"The {self.called} must answer, but {what}: look after it, and continue"
            " the run."
        )
