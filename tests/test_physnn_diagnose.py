"""diagnose: each circuit is asked at the inputs it really sees, the outermost alone."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr

from circuits.parts import NODE_F, AutomaticGain
from physnn.circuit import AbstractMemorylessCircuit, run
from physnn.diagnose import diagnose, judged, limits_of
from physnn.network import Chain, Residual
from tests.helpers import QUIET


class Doubler(AbstractMemorylessCircuit):
    """y = 2x, and says how large x was."""

    inner: AbstractMemorylessCircuit | None = None
    n_in: int = eqx.field(static=True, default=2)
    n_out: int = eqx.field(static=True, default=2)

    def apply(self, x, *, process, key):
        if self.inner is not None:
            x = self.inner.apply(x, process=process, key=key)
        return 2 * x

    def diagnose(self, xs, *, process, key):
        return {"largest": jnp.max(jnp.abs(xs))}

    def events(self, process, *, period_s):
        return ()

    def netlist(self, process, *, name):
        raise ValueError(f"`{name}` must be simulated, but is to be built.")


class Silent(Doubler):
    """One that has nothing to show."""

    def diagnose(self, xs, *, process, key):
        return {}


class Strict(Doubler):
    """One whose inputs should not be large."""

    limits: ClassVar = {"largest": (0.0, 2.0)}


def asked(network, xs):
    look = lambda model: run(model, xs, process=QUIET, key=jr.key(0))
    return diagnose(network, look, process=QUIET, key=jr.key(1))


def test_every_circuit_answers_at_its_own_inputs():
    network = Chain([Doubler(), Doubler()])
    xs = jnp.asarray([[0.5, -3.0], [1.0, 0.0]])
    assert asked(network, xs) == {
        "parts[0]": {"largest": 3.0},
        "parts[1]": {"largest": 6.0},
    }


def test_a_circuit_with_nothing_to_show_is_no_row():
    assert list(asked(Chain([Silent(), Doubler()]), jnp.ones((1, 2)))) == ["parts[1]"]


def test_of_circuits_inside_each_other_the_outermost_answers():
    network = Residual(Doubler(inner=Doubler()), hold_F=NODE_F)
    (path,) = asked(network, jnp.ones((1, 2)))
    assert path == "inner"


def test_circuits_without_figures_are_left_out():
    assert asked(AutomaticGain(2), jnp.ones((1, 2))) == {}


def test_a_figure_outside_of_its_limits_is_said_to_be():
    network = Chain([AutomaticGain(2), Residual(Strict(), hold_F=NODE_F)])
    assert limits_of(network) == {"largest": (0.0, 2.0)}
    quiet, loud = (
        judged({"largest": x, "other": 9.0}, limits_of(network)) for x in (1.0, 3.0)
    )
    assert "OUTSIDE" not in quiet
    first, second = loud.splitlines()
    assert first.endswith("0 to 2       OUTSIDE")
    assert second.split() == ["other", "9"]
