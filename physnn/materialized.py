"""What is computed once and kept: values that XLA must not compute again."""

from collections.abc import Callable
from functools import cache, cached_property, update_wrapper
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Shaped


def materialized(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """`x`, written to memory once; so is its cotangent on the way back.

    XLA fuses element-wise work into every reader of its result: a draw, a code or a
    gradient that two matrix products read is computed for each of them, and where one
    reads it transposed, against the grain of memory. The barrier only holds under
    `compiled`, or a `jit` with `compiler_options()`.
    """
    return jax.lax.optimization_barrier(x)


# Products and sums of YNNPACK, into which XLA's CPU compiler puts them by default, take
# longer than its own: a training step 1.05 to 1.25 times as long (docs/performance.md).
_OWN_PRODUCTS = {"xla_cpu_experimental_ynn_fusion_type": ""}


@cache
def compiler_options() -> dict[str, str] | None:
    """Options for a `jax.jit` in which `materialized` is to hold; None needs none.

    XLA's CPU compiler takes barriers out before it fuses, as they were made against
    common subexpressions alone. Without that pass they reach its code generator, which
    passes their buffers on. And it is to compute products and sums itself, where its
    version can be told so.
    """
    if jax.default_backend() != "cpu":
        return None
    options = {"xla_disable_hlo_passes": "cse_barrier_expander"}
    try:
        jax.jit(lambda: 0, compiler_options=_OWN_PRODUCTS).lower().compile()
    except jax.errors.JaxRuntimeError:  # no such option
        return options
    return options | _OWN_PRODUCTS


class compiled:
    """`eqx.filter_jit` of `function`, under which `materialized` holds.

    Which options that takes is asked at the first call: asking starts the devices, and
    how many there are can be said until then. For functions that are called from
    outside: JAX takes no options of a program inside another one.
    """

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        update_wrapper(self, function, updated=())

    @cached_property
    def _program(self) -> Any:
        options: dict[str, Any] = {"compiler_options": compiler_options()}
        return eqx.filter_jit(self._function, **options)

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self._program(*given, **named)

    def lower(self, *given: Any, **named: Any) -> Any:
        """The program for such arguments, before it is compiled."""
        return self._program.lower(*given, **named)
