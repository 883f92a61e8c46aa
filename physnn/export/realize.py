"""Realize: a design with nothing but the values that a package holds."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from physnn.bank import Bank
from physnn.export import tables
from physnn.process import Process


def _is_bank(node) -> bool:
    return isinstance(node, Bank)


def realized_design(design, process: Process):
    """`design` whose banks hold what their rows say: code times lsb, or the value.

    Banks are continuous then, so that nothing is coded a second time. What it computes
    is what whoever builds from the package gets; the difference to `design` is the loss
    by exporting.
    """
    banks = [
        node for node in jax.tree.leaves(design, is_leaf=_is_bank) if _is_bank(node)
    ]
    columns = iter(tables.columns_of(banks, process))

    def realize(node):
        if not _is_bank(node):
            return node
        own = next(columns)
        value = own["realized_value"]
        as_drawn = node.error is None and node.shift is None
        if node.bits is not None and as_drawn:
            value = own["code"] * own["lsb"]
        return _continuous(node, jnp.asarray(value, jnp.float32))

    return jax.tree.map(realize, design, is_leaf=_is_bank)


def uncoded_design(design):
    """`design` whose banks hold the trained values, before they are coded."""

    def plain(node):
        return _continuous(node, node.value) if _is_bank(node) else node

    return jax.tree.map(plain, design, is_leaf=_is_bank)


def _continuous(bank: Bank, value) -> Bank:
    coded = bank.bits is not None
    return dataclasses.replace(
        bank,
        value=value,
        error=None,
        follow=None,
        shift=None,
        unknown=None,
        bits=None,
        # A code holds full scale, which may be a rounding beyond the legal range.
        low=-math.inf if coded else bank.low,
        high=math.inf if coded else bank.high,
    )
