"""Hardware in the loop: forward through a device, backward through our model."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float

from physnn.circuit import AbstractCircuit, run
from train.classifier import Classifier
from train.devices import Device, HardwareInTheLoop
from train.model import PhysicalModel
from train.served import HostDevice


def physics_aware(real: Callable, model: Callable) -> Callable:
    """`(operands, rest) ↦ real(operands, rest)` with the gradient of `model`.

    Physics-aware training: what the device gave is what the next layer and the loss
    see, and the error is carried back by the vector-Jacobian product of the model *at
    the operands the device had*, so that it does not add up from layer to layer. A
    custom VJP (`jax.custom_vjp` by way of Equinox, which lets operands be any tree).

    `real` need not be differentiable: it may be a `jax.pure_callback`. No gradient
    reaches `rest`. Reference: Wright et al. 2022, "Deep physical neural networks
    trained with backpropagation", DOI 10.1038/s41586-021-04223-6.
    """

    @eqx.filter_custom_vjp
    def through(operands, rest):
        return real(operands, rest)

    @through.def_fwd
    def forward(perturbed, operands, rest):
        del perturbed
        return real(operands, rest), None

    @through.def_bwd
    def backward(residuals, grad, perturbed, operands, rest):
        del residuals, perturbed
        _, vjp = eqx.filter_vjp(lambda o: model(o, rest), operands)
        return vjp(grad)[0]

    return through


class InTheLoop(AbstractCircuit[None]):
    """A circuit whose output is that of a device; its gradient is the circuit's.

    It runs whole sequences from rest: the device keeps its state to itself. Raises
    `ValueError` for a single step.
    """

    circuit: AbstractCircuit
    device: Device = eqx.field(static=True)
    name: str = eqx.field(static=True)
    exact: bool = eqx.field(static=True)
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(self, circuit, device: Device, *, name: str, exact: bool = False):
        self.circuit, self.device, self.name = circuit, device, name
        self.exact = exact
        self.n_in, self.n_out = circuit.n_in, circuit.n_out

    def init_state(self, batch_shape=()):
        del batch_shape

    def scan(self, state, xs, *, process, key):
        batch = xs.shape[1:-1]
        flat = xs.reshape(len(xs), -1, self.n_in)

        def real(operands, rest):
            circuit, xs = operands
            process, key = rest
            return self.device.run(self.name, circuit, xs, process=process, key=key)

        def model(operands, rest):
            circuit, xs = operands
            process, key = rest
            return run(circuit, xs, process=process, key=key)

        through = real if self.exact else physics_aware(real, model)
        ys = through((self.circuit, flat), (process, key))
        return state, ys.reshape(len(xs), *batch, self.n_out)

    def apply(self, x: Float[Array, "*batch n_in"], *, process, key) -> Array:
        """A memoryless circuit, as the heads of models ask for it."""
        return self.scan(None, x[None], process=process, key=key)[1][0]

    def step(self, state, x, *, process, key):
        raise ValueError(
            f"Circuit `{self.name}` must be run as a whole sequence, because the device"
            " in the loop keeps its state, but was asked for a step."
        )

    def events(self, process, *, period_s):
        return self.circuit.events(process, period_s=period_s)

    def netlist(self, process, *, name):
        return self.circuit.netlist(process, name=name)


def circuits_in_the_loop(model: Any) -> dict[str, AbstractCircuit]:
    """What of a model a device computes, by name: every layer, or block and head.

    DACs, ADCs and gain control before the head stay with us. Raises `ValueError` for a
    model that is no circuit.
    """
    return dict(zip(*_places(model), strict=True))


def in_the_loop(
    model: Any, hardware: HardwareInTheLoop | None, device: Device | None
) -> Any:
    """`model` with its circuits computed by `device`; unchanged for `in_silico`.

    Raises `ValueError` where training asks for a device and there is none.
    """
    if hardware is None or hardware.training == "in_silico":
        return model
    if device is None:
        raise ValueError(
            "Argument `device` must be given where `hardware` is in the loop: build it"
            " with `hardware.device.build()`."
        )
    return on_device(model, device, exact=hardware.training == "exact")


def on_device(model: Any, device: Device, *, exact: bool = False) -> Any:
    """`model` with its circuits computed by `device`, whatever training did."""
    names, circuits = _places(model)
    looped = [
        InTheLoop(circuit, device, name=name, exact=exact)
        for name, circuit in zip(names, circuits, strict=True)
    ]
    return eqx.tree_at(lambda m: _places(m)[1], model, looped)


def _places(model: Any) -> tuple[list[str], list[Any]]:
    if isinstance(model, Classifier):
        parts = list(model.chain.parts)
        return [f"layer{i}" for i in range(len(parts))], parts
    if isinstance(model, PhysicalModel):
        return [*model.stack.names, "head"], [*model.stack.blocks, model.head]
    raise ValueError(
        "A device can stand in for the circuits of a classifier or a physical sequence"
        f" model, but the model is a {type(model).__name__}."
    )


@contextlib.contextmanager
def plain_errors(device: Device | None) -> Iterator[None]:
    """Raise what went wrong with a device as its own `DeviceError`, in one sentence.

    JAX logs what a callback raises and wraps it into an error of its own, traceback
    and all.
    """
    log = logging.getLogger("jax._src.callback")
    level = log.level
    if isinstance(device, HostDevice):
        log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    except jax.errors.JaxRuntimeError:
        failure = getattr(device, "failure", None)
        if failure is None:
            raise
        raise failure from None
    finally:
        log.setLevel(level)
