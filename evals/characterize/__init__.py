"""Characterize: measure drawn cells in ngspice and keep what was found as a card.

A module per cell in `card.CELLS` has `characterize(models, tables) -> dict`: the table
of that cell, of plain numbers, strings, lists and tables, in SI units with the unit in
the name; `tables` are those of the cells before it. `card.py` runs them and writes
`configs/cells/<pdk>.toml`.
"""
