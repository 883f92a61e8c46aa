"""Restarted: a circuit that forgets, so that its tokens run side by side."""

import equinox as eqx

from physnn.circuit import AbstractCircuit, AbstractMemorylessCircuit
from physnn.energy.events import Event
from physnn.export.netlist import Netlist


class Restarted(AbstractMemorylessCircuit):
    """A circuit that starts anew with every token: a sequence is one more batch axis.

        x_t ──[ start ─ circuit, one token ]── y_t        no state from t to t + 1

    A clock returns every state to its start before each token, which costs two
    flip-flops. Assumes: the restart takes no part of the token. Does not model: charge
    that the restart leaves behind.
    """

    circuit: AbstractCircuit
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(self, circuit: AbstractCircuit):
        self.circuit = circuit
        self.n_in, self.n_out = circuit.n_in, circuit.n_out

    def apply(self, x, *, process, key):
        state = self.circuit.init_state(x.shape[:-1])
        return self.circuit.step(state, x, process=process, key=key)[1]

    def diagnose(self, xs, *, process, key):
        """That of the circuit, every input a sequence of one token."""
        xs = xs.reshape(1, -1, self.n_in)
        return self.circuit.diagnose(xs, process=process, key=key)

    def events(self, process, *, period_s):
        restart = Event("flop_cycle", 2, "restart")
        return (*self.circuit.events(process, period_s=period_s), restart)

    def netlist(self, process, *, name) -> Netlist:
        return self.circuit.netlist(process, name=name)
