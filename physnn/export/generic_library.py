"""A small library of gates without a fab: what tables are mapped to when there is none.

Cells of static CMOS with as many transistors as their function takes. `area` counts
transistors, and a pin has the gates of one n and one p transistor of the process card:
enough to prove a mapping and to count, and no statement about a layout.
"""

from physnn.export.laws import number
from physnn.process import Process

NAME = "physnn_generic"
# Cell: function of its pins, transistors.
CELLS = {
    "inv": ("!A", 2),
    "buf": ("A", 4),
    "nand2": ("!(A*B)", 4),
    "nand3": ("!(A*B*C)", 6),
    "nor2": ("!(A+B)", 4),
    "nor3": ("!(A+B+C)", 6),
    "aoi21": ("!((A*B)+C)", 6),
    "oai21": ("!((A+B)*C)", 6),
    "aoi22": ("!((A*B)+(C*D))", 8),
    "oai22": ("!((A+B)*(C+D))", 8),
    "tie0": ("0", 2),
    "tie1": ("1", 2),
}


def write_generic_library(process: Process) -> str:
    """The library in Liberty, its pins those of `process`."""
    pin_pF = number(2 * float(process.switch_gate_F) * 1e12)
    lines = [
        f"library ({NAME}) {{",
        '  comment : "area counts transistors; no layout, wires or delays";',
        "  delay_model : table_lookup;",
        "  capacitive_load_unit (1,pf);",
        '  time_unit : "1ns";',
        '  voltage_unit : "1V";',
        '  current_unit : "1uA";',
        '  leakage_power_unit : "1pW";',
        f"  nom_voltage : {number(float(process.supply_V))};",
        f"  nom_temperature : {number(float(process.temperature_K) - 273.15)};",
    ]
    for name, (function, transistors) in CELLS.items():
        lines += [f"  cell ({name}) {{", f"    area : {transistors};"]
        for pin in "ABCD":
            if pin in function:
                load = f"capacitance : {pin_pF};"
                lines.append(f'    pin ({pin}) {{ direction : "input"; {load} }}')
        lines += [
            f'    pin (Y) {{ direction : "output"; function : "{function}"; }}',
            "  }",
        ]
    return "\n".join([*lines, "}"]) + "\n"
