"""Resistance of lines: what devices of a matrix lose on the wires that they share."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from physnn.bank import Bank
from physnn.lines import ChargeLines, TailLines
from physnn.process import Process

# Inverse iterations from a line of equal voltages; of a uniform line the time constant
# is then right to 1e-5, and its first guess (Elmore's) to 1 %.
ITERATIONS = 3


def line(bank: Bank, *, process, environment, key, place):
    """w·(share − 1): what a resistive line takes from each device, by its place.

    `line_ohm_per_m` times the pitch of a cell is the resistance r between two cells.
    The foot, where a line is driven or read, is below the last row, and left of the
    first column. Linear in the inputs, hence an error of the weights; it takes no draw.

    - `ChargeLines`: row and column are RC ladders that have a time T. A share `left` of
      the charge of a cell has not arrived by then, so w·(1 − left_row)·(1 −
      left_column).
    - `TailLines`: the tails of a column lift its return line where they are, by an IR
      drop that adds up along it; a tail with g_m/I loses g_m/I·drop of its current. To
      first order in the drop the shares are `delivered` with the conductances g_m.

    Acts on matrices with `lines`. Not modeled: resistance of switches, vias and drivers
    beside the wire, of signal rows of current cells (gates take no current), a drop
    that follows the signal.
    """
    del key, place
    if environment.is_none("line_ohm_per_m") or bank.lines is None:
        return None
    w = jax.lax.stop_gradient(bank.nominal())
    r = environment.line_ohm_per_m * pitch_m(bank)
    if isinstance(bank.lines, TailLines):
        share = delivered(r * tail_S(bank, process) * jnp.abs(w))
    else:
        share = settled(bank, process, r)
    return w * (share - 1)


def pitch_m(bank: Bank) -> Float[Array, ""] | float:
    """From one cell of a bank with `lines` to the next: a cell is drawn as a square."""
    assert bank.lines is not None
    units_m2 = bank.units() * bank.area_m2 * bank.area_factor()
    cell_m2 = bank.lines.halves * units_m2 + bank.code_bits() * bank.lines.bit_m2
    return jnp.sqrt(cell_m2)


def settled(bank: Bank, process: Process, r) -> Float[Array, "rows columns"]:
    """Share of the charge of each cell that has arrived, along its row and column."""
    lines = bank.lines
    assert isinstance(lines, ChargeLines)
    size = jnp.abs(jax.lax.stop_gradient(bank.nominal()))
    unit_F = bank.area_m2 * process.capacitor_density_F_per_m2 * bank.area_factor()
    wire_F = pitch_m(bank) * process.wire_F_per_m
    # Of the largest cell's capacitor, so that nothing leaves float32.
    full_F = unit_F * bank.units()
    load = size / jax.lax.stop_gradient(bank.full_scale()) + wire_F / full_F
    rc = r * full_F * process.capacitance / lines.settle_s
    column = left(load, rc)
    # A row is driven at its left end: the foot comes after the last of its mirror.
    row = left(load[:, ::-1].T, rc).T[:, ::-1]
    return (1 - row) * (1 - column)


def left(
    load: Float[Array, "rows columns"], rc: Float[Array, ""] | float
) -> Float[Array, "rows columns"]:
    """Share of each cell's charge that is still on its line after a time T.

    A ladder of resistors r and capacitors c_k ends at a foot of 0 V; `load` is c_k/C,
    `rc` rC/T. Charge put in at cell k and not yet at the foot is, as the ladder is
    reciprocal, the voltage of cell k when all began at 1 V:

        C dv/dt = −G v,  v(0) = 1:   v(T) ≈ a·φ·e^(−T/τ)

    φ the slowest mode of the ladder, τ its time constant, a = Σcφ/Σcφ². The next mode
    is nine times as fast on a uniform line. φ by inverse iterations of G, whose first
    one is Elmore's delay (Elmore 1948, DOI 10.1063/1.1697872), each two running sums.
    """
    mode, before = jnp.ones_like(load), load
    for _ in range(ITERATIONS):
        before = load * mode
        flow = jnp.cumsum(before, axis=0)
        mode = jnp.cumsum(flow[::-1], axis=0)[::-1]
        # A line without any load is settled at once: no mode, and nothing left.
        size = jnp.maximum(mode[:1], 1e-30)
        mode, before = mode / size, before / size
    energy = jnp.sum(load * mode**2, axis=0)
    tau = energy / jnp.maximum(jnp.sum(before * mode, axis=0), 1e-30)
    amount = jnp.sum(load * mode, axis=0) / jnp.maximum(energy, 1e-30)
    # Past a hundred time constants nothing is left, and no slope either.
    decay = jnp.exp(-1 / jnp.maximum(rc * tau, 0.01))
    return jnp.clip(amount * mode * decay, 0.0, 1.0)


def tail_S(bank: Bank, process: Process) -> Float[Array, "*columns"]:
    """Transconductance of the tail of a device of value 1 [S], of each column."""
    lines = bank.lines
    assert isinstance(lines, TailLines)
    voltages = {
        "swing": process.swing_V,
        "supply": process.supply_V,
        "linear": process.linear_range() * process.swing_V,
    }
    node_F = lines.node_F
    if lines.with_wire:
        rows = bank.value.shape[0]
        node_F = node_F + rows * pitch_m(bank) * process.wire_F_per_m
    each_F = jnp.asarray(np.asarray(lines.share) / lines.time_s * node_F)
    return process.operating["gm_per_I"] * each_F * voltages[lines.voltage]


def delivered(rg: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """Share of each cell's current that flows where line and cells divide it.

    `rg` is line resistance times conductance, cell by cell. It is the voltage at the
    cell when the foot is driven by 1 V and the cells are conductances to ground: I_k =
    I0_k·(1 − g·v_k), with v the IR drop of all I, is that network for u = 1 − g·v. With
    Y_k the admittance of the line beyond cell k, in units of 1/r,

        Y_k = rg_k + Y_k−1/(1 + Y_k−1),   u_n = 1/(1 + Y_n),   u_k−1 = u_k/(1 + Y_k−1)
    """

    def down(beyond, each):
        here = each + beyond / (1 + beyond)
        return here, here

    _, admittance = jax.lax.scan(down, jnp.zeros_like(rg[0]), rg)
    log_u = -jnp.cumsum(jnp.log1p(admittance)[::-1], axis=0)[::-1]
    return jnp.exp(log_u)
