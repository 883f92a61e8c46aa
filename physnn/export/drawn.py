"""Drawn: transistor-level cells of a package, their twins and benches, from a card.

A card is what `physnn characterize` measured: a table per cell (`configs/cells`). A
design gets the cells of its families. They are neutral: a deck includes `pdk.spice`,
which says what a `dev_nmos` is; `spice/pdk/<name>.spice` is that file for each process
we describe, but for the line with the models.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from physnn.export import columns, drawn_twins, gated_state, rings, sar
from physnn.export import transconductor as gm
from physnn.export import transconductor_benches as benches
from physnn.export.feedback import COLUMNS, column_table
from physnn.export.netlist import Netlist
from physnn.export.selection import circuits_of
from physnn.export.spice import BEHAV, write_cell
from physnn.export.tables import to_json
from physnn.pdk import load_pdk, pdk_names
from physnn.process import Process

CELLS = "spice/cells"
# The card itself, which the gates compare with.
CARD = "params/cells.json"


@dataclass(frozen=True)
class Drawn:
    """The drawn cells of some families of circuits.

    `tables` of the card are needed; `cells(card)` are drawn, `twins(card)` have the
    same names and ports; `decks` are benches by name.
    """

    families: tuple[str, ...]
    tables: tuple[str, ...]
    cells: Callable[[Mapping[str, Any]], tuple[Netlist, ...]]
    twins: Callable[[Mapping[str, Any]], tuple[Netlist, ...]]
    decks: Callable[[], dict[str, str]]


def _state_decks() -> dict[str, str]:
    small, large = benches.STEPS_V
    return {
        "ota_curve": benches.curve_deck(),
        "ota_output": benches.output_deck(),
        "state_small_step": benches.step_deck(small, "state_small_step"),
        "state_large_step": benches.step_deck(large, "state_large_step"),
        "state_noise": benches.noise_deck(),
        "charge_noise": benches.charge_noise_deck(),
    }


def _bias_twin(card: Mapping[str, Any]) -> Netlist:
    return gm.mirror_twin(float(card["ota"]["bias_V"]))


def _column(card: Mapping[str, Any]) -> Netlist:
    return columns.standard(open_loop=columns.OpenLoop.of(card))


DRAWN = (
    Drawn(
        ("GatedRC", "GilbertGate", "Resonator"),
        ("ota", "state"),
        lambda _: (gm.mirror(), gm.state(gm.ota())),
        lambda card: (
            _bias_twin(card),
            gm.state(gm.ota_twin(gm.OtaCard.of(card["ota"]))),
        ),
        _state_decks,
    ),
    Drawn(
        ("GatedRC",),
        ("ota", "token"),
        lambda _: (gm.mirror(), gated_state.gated_state()),
        lambda card: (
            _bias_twin(card),
            gated_state.gated_state(
                gated_state.steered_twin(gated_state.SteeredCard.of(card["token"])),
                gated_state.ideal_switch(),
            ),
        ),
        dict,
    ),
    Drawn(
        ("SettlingNetwork",),
        ("ota", "settling"),
        lambda _: (gm.mirror(), gm.settling(gm.ota())),
        lambda card: (
            _bias_twin(card),
            gm.settling(gm.ota_twin(gm.OtaCard.of(card["ota"]))),
        ),
        lambda: {
            "ota_curve": benches.curve_deck(),
            "settling_rest": benches.settle_deck(),
        },
    ),
    Drawn(
        ("PhaseOscillators", "StuartLandau"),
        ("ring", "mismatch"),
        lambda _: (rings.standard(),),
        lambda card: (
            drawn_twins.ring(rings.standard(), float(card["ring"]["frequency_Hz"])),
        ),
        dict,
    ),
    Drawn(
        ("ChargeMac",),
        ("mac_sweep", "mac", "mismatch"),
        lambda card: (columns.reference(), _column(card)),
        lambda card: (
            drawn_twins.reference(columns.reference(), card["mac"]),
            drawn_twins.column(_column(card), columns.UNITS, card["mac"]),
        ),
        dict,
    ),
    Drawn(
        ("SarConverter", "Dac"),
        ("sar", "mismatch"),
        lambda _: (sar.comparator(), sar.standard_array()),
        lambda card: (
            drawn_twins.comparator(sar.comparator()),
            drawn_twins.array(sar.standard_array(), sar.ARRAY_BITS),
        ),
        dict,
    ),
)


def _of(design) -> list[Drawn]:
    """The drawn cells of the families in a design."""
    families = {type(circuit).__name__ for _, circuit in circuits_of(design)}
    return [drawn for drawn in DRAWN if families & set(drawn.families)]


def check_card(design, card: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a card that lacks tables of the cells of `design`."""
    needed = {table: None for drawn in _of(design) for table in drawn.tables}
    missing = [table for table in needed if table not in card]
    if missing:
        raise ValueError(
            f"The card of {card.get('pdk')} must hold the cells {list(needed)}, which"
            f" this design is drawn with, but {missing} are missing: run `physnn"
            f" characterize --cell` for each of them."
        )


def files(
    design, process: Process, card: Mapping[str, Any], taken: Mapping[str, bytes]
) -> dict[str, bytes]:
    """The files of drawn cells for the families in `design`, by path in the package.

    `taken` are the files that are there already. Raises `ValueError` for a card without
    the table of a cell, and for a cell of the design that is called like one of these.
    """
    check_card(design, card)
    found: dict[str, bytes] = {}
    for drawn in _of(design):
        try:
            cells, twins = drawn.cells(card), drawn.twins(card)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"The card of {card.get('pdk')} must hold what its cells need, but is"
                f" of another version ({error!r}): physnn characterize."
            ) from error
        for folder, netlists in ((CELLS, cells), (BEHAV, twins)):
            for cell in netlists:
                for part in cell.cells():
                    found[f"{folder}/{part.name}.spice"] = write_cell(part).encode()
        for name, deck in drawn.decks().items():
            found[f"spice/tb/{name}.sp"] = deck.encode()
    if not found:
        return {}
    collision = sorted(set(found) & set(taken))
    if collision:
        raise ValueError(
            "Cells of the design must not be called like drawn ones, but"
            f" {collision[0]} is there twice: rename that part of the design."
        )
    kits = [load_pdk(name) for name in pdk_names()]
    for kit in kits:
        layout = kit.layouts[0]
        head = [
            f"* {kit.name}: devices that the cells call. Copy it beside a deck as",
            "* pdk.spice, and put the path of the models into the next lines.",
        ]
        head += [f"*{line}" for line in layout.statements(kit.corners["tt"])]
        text = "\n".join(head) + "\n" + kit.wrappers()
        found[f"spice/pdk/{kit.name}.spice"] = text.encode()
    found["spice/pdk_map.json"] = to_json({kit.name: kit.to_json() for kit in kits})
    found[CARD] = to_json(dict(card))
    table = column_table(design, process, card)
    return found if table is None else found | {COLUMNS: table}
