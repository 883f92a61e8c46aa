"""AbstractCircuit: the four questions every circuit answers."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Float, Key

from physnn.energy.events import Event
from physnn.export.logic import HashedRoms, Logic
from physnn.export.netlist import Netlist
from physnn.process import Process

State = TypeVar("State")


class AbstractCircuit(eqx.Module, Generic[State]):
    """A differentiable behavioral model of a physical circuit.

    Signals are fractions of full scale. Arrays carry any batch axes; the batch lives
    inside the state, and time is the *first* axis of a sequence.
    """

    n_in: eqx.AbstractVar[int]
    n_out: eqx.AbstractVar[int]

    # Lowest and highest of the figures of `diagnose` that should keep to a range.
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {}

    @abc.abstractmethod
    def init_state(self, batch_shape: tuple[int, ...] = ()) -> State:
        """The state before the first input, for inputs `(*batch_shape, n_in)`."""

    @abc.abstractmethod
    def step(
        self,
        state: State,
        x: Float[Array, "*batch n_in"],
        *,
        process: Process,
        key: Key[Array, ""],
    ) -> tuple[State, Float[Array, "*batch n_out"]]:
        """What does it compute? One sample in, one sample out."""

    @abc.abstractmethod
    def scan(
        self,
        state: State,
        xs: Float[Array, "time *batch n_in"],
        *,
        process: Process,
        key: Key[Array, ""],
    ) -> tuple[State, Float[Array, "time *batch n_out"]]:
        """The same for a whole sequence at once, as fast as the family allows."""

    @abc.abstractmethod
    def events(self, process: Process, *, period_s: float) -> tuple[Event, ...]:
        """What does one step make happen? Counts for one sample, batch excluded.

        Digital events come from shapes alone, what is held from the period a step
        takes, and charge (`supply_charge_C`, `amplifier_charge_C`) also from the
        trained sizes, differentiably. Works on trees of `jax.ShapeDtypeStruct`.
        """

    @abc.abstractmethod
    def netlist(self, process: Process, *, name: str) -> Netlist:
        """How is it built? A neutral description that any exporter can write.

        `name` is that of the cell; cells below it are named after it. Ports are
        `bus("x", n_in)`, `bus("y", n_out)`, clocks and `ref` (`physnn.export.cells`).
        A cell that can be tried alone brings a `Bench` with what the noiseless model
        predicts. A chip is described with its own errors. Raises `ValueError` for what
        a netlist cannot hold.
        """

    def logic(self, process: Process) -> Logic | HashedRoms | None:
        """Which part of it is bits? Tables and registers that digital tools can build.

        None, unless a family has some. Of a circuit between analog ends it is what
        lies between them.
        """
        del process
        return None

    def stored(self) -> tuple[Float[Array, "..."], Any] | None:
        """Values stored in bits and not in a `Bank`, and the full scale of one.

        What faults act on where there is no device to each value: tables, rows of a
        ROM. None, unless a family has some; then `with_stored` takes them back.
        """
        return None

    def with_stored(self, values: Float[Array, "..."]) -> "AbstractCircuit":
        """The circuit with other stored values."""
        raise ValueError(
            f"A circuit with stored values must take them back, but"
            f" {type(self).__name__} has none: leave `with_stored` alone."
        )

    def diagnose(
        self,
        xs: Float[Array, "time *batch n_in"],
        *,
        process: Process,
        key: Key[Array, ""],
    ) -> dict[str, Float[Array, ""]]:
        """Figures a user should see about this circuit at its inputs `xs`, by name.

        None, unless a family has some: is it in its computing regime, did it converge,
        how many of its units are silent. `limits` says where a figure should be.
        `physnn.diagnose` asks a whole network.
        """
        del xs, process, key
        return {}


class AbstractMemorylessCircuit(AbstractCircuit[None]):
    """A circuit without state: a sequence is one more batch axis."""

    @abc.abstractmethod
    def apply(
        self, x: Float[Array, "*batch n_in"], *, process: Process, key: Key[Array, ""]
    ) -> Float[Array, "*batch n_out"]:
        """The output for the input."""

    def init_state(self, batch_shape: tuple[int, ...] = ()) -> None:
        del batch_shape

    def step(self, state, x, *, process, key):
        return state, self.apply(x, process=process, key=key)

    def scan(self, state, xs, *, process, key):
        return state, self.apply(xs, process=process, key=key)


def run(
    circuit: AbstractCircuit,
    xs: Float[Array, "time *batch n_in"],
    *,
    process: Process,
    key: Key[Array, ""],
) -> Float[Array, "time *batch n_out"]:
    """Run a design or a chip on a sequence, drawing its temporal noise from `key`."""
    if xs.shape[-1] != circuit.n_in:
        raise ValueError(
            f"Argument `xs` must end in {circuit.n_in} inputs, but has shape"
            f" {xs.shape}."
        )
    state = circuit.init_state(xs.shape[1:-1])
    return circuit.scan(state, xs, process=process, key=key)[1]


def run_stepwise(
    circuit: AbstractCircuit,
    xs: Float[Array, "time *batch n_in"],
    *,
    process: Process,
    key: Key[Array, ""],
) -> Float[Array, "time *batch n_out"]:
    """The same through `step`, sample by sample: how a chip and generation run it."""

    def body(state, inputs):
        x, step_key = inputs
        return circuit.step(state, x, process=process, key=step_key)

    state = circuit.init_state(xs.shape[1:-1])
    return jax.lax.scan(body, state, (xs, jr.split(key, len(xs))))[1]
