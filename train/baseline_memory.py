"""A hashed memory under the transformer: the control of circuits/memory.py."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from circuits.memory import ROW_SPREAD, hash_table
from train.kernels import linear


@dataclass(frozen=True)
class HashedRowsConfig:
    """Sizes of the memory, as those of `MemoryBlock`; one head for each length."""

    longest: int = 5  # bytes of the longest hash; the shortest takes 2
    index_bits: int = 14  # log2 of the rows of a head
    row: int = 32  # values in a row

    def __post_init__(self):
        limits = {"longest": (2, 8), "index_bits": (1, 24), "row": (1, 4096)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(
                    f"Argument `{name}` must be from {low} to {high}, but is"
                    f" {getattr(self, name)}."
                )

    @property
    def n_read(self) -> int:
        """Values that a token reads."""
        return (self.longest - 1) * self.row


class HashedRows(nnx.Module):
    """Rows found by hashing the last bytes, let through by the stream.

        y = W (rows ⊙ sigmoid(G·norm(x)))

    The same hashes as of the circuit, so that both read the same rows; real numbers
    where the ROM has codes. Reference: Engram, arXiv 2601.07372.
    """

    def __init__(self, config: HashedRowsConfig, width: int, *, rngs: nnx.Rngs):
        self.index_bits, heads = config.index_bits, config.longest - 1
        shape = (heads, 2**config.index_bits, config.row)
        draw = nnx.initializers.normal(ROW_SPREAD)
        self.table = nnx.Param(draw(rngs.params(), shape))
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.gate = linear(width, config.n_read, rngs=rngs)
        self.output = linear(config.n_read, width, rngs=rngs)

    def __call__(
        self, tokens: Int[Array, "batch time"], x: Float[Array, "batch time width"]
    ) -> Float[Array, "batch time width"]:
        rows = []
        for head, table in enumerate(self.table[...]):
            n = head + 2
            words = jnp.asarray(hash_table(head, n, self.index_bits))
            # Before the first byte all bytes are 0.
            held = jnp.pad(tokens.astype(jnp.int32), ((0, 0), (n - 1, 0)))
            index = jnp.zeros(tokens.shape, jnp.int32)
            for place in range(n):
                start = n - 1 - place
                index ^= words[place][held[:, start : start + tokens.shape[1]]]
            rows.append(table[index])
        opened = jax.nn.sigmoid(self.gate(self.norm(x)))
        return self.output(jnp.concatenate(rows, axis=-1) * opened)
