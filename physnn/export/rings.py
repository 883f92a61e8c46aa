"""Transistor-level ring oscillators: inverters in a loop, every node a port."""

from physnn.export.netlist import Device, Instance, Netlist, Parameter

# Sizes of a stage [m]: p twice as wide as n, so that both edges are alike.
N_WIDTH_M, P_WIDTH_M, LENGTH_M = 1e-6, 2e-6, 0.15e-6
# Wire and load of a node beside the gates and junctions of the stages [F].
NODE_F = 2e-15


def inverter(
    name: str = "ring_stage",
    *,
    n_width_m: float = N_WIDTH_M,
    p_width_m: float = P_WIDTH_M,
    length_m: float = LENGTH_M,
) -> Netlist:
    """An inverter from `a` to `y`."""
    size = {"length_m": length_m, "multiple": 1.0}
    return Netlist(
        name,
        ("a", "y", "vdd", "vss"),
        (
            Device(
                "n", "nmos", ("y", "a", "vss", "vss"), {"width_m": n_width_m, **size}
            ),
            Device(
                "p", "pmos", ("y", "a", "vdd", "vdd"), {"width_m": p_width_m, **size}
            ),
        ),
        notes="One stage of a ring oscillator.",
    )


def stage_nets(n_stages: int) -> tuple[str, ...]:
    """The nodes of a ring in the order in which an edge runs through them."""
    return tuple(f"n{i}" for i in range(n_stages))


def ring(
    name: str, n_stages: int, *, stage: Netlist, node_F: float = NODE_F
) -> Netlist:
    """A ring of `n_stages` inverters with `node_F` at every node.

    The parameter `tune` is more capacitance at node n0 alone [F]: it detunes the ring.
    Couplers and injection act on node n0. Raises `ValueError` for a number of stages
    that is even or below 3, which does not oscillate.
    """
    if n_stages < 3 or n_stages % 2 == 0:
        raise ValueError(
            "Argument `n_stages` must be odd and at least 3, or a ring rests, but"
            f" is {n_stages}."
        )
    nets = stage_nets(n_stages)
    loads = [
        Device(f"node{i}", "capacitor", (net, "vss"), {"capacitance_F": node_F})
        for i, net in enumerate(nets)
    ]
    tune = Device("tune", "capacitor", (nets[0], "vss"), {"capacitance_F": "tune"})
    return Netlist(
        name,
        (*nets, "vdd", "vss"),
        (*loads, tune),
        tuple(
            Instance(f"stage{i}", stage, (net, nets[(i + 1) % n_stages], "vdd", "vss"))
            for i, net in enumerate(nets)
        ),
        parameters={
            "tune": Parameter(1e-18, "F", "tuning capacitance, added to node n0")
        },
        notes=f"Ring oscillator of {n_stages} stages. Couplers act on node n0.",
    )


def standard(n_stages: int = 5) -> Netlist:
    """The ring that cards and packages hold: `ring5`, or of another length."""
    return ring(f"ring{n_stages}", n_stages, stage=inverter())


def gate_area_m2(cell: Netlist) -> float:
    """Drawn gate area of all transistors in and below `cell` [m²]."""
    own = 0.0
    for device in cell.devices:
        p = device.parameters
        if "length_m" in p and device.kind != "mim":
            own += float(p["width_m"]) * float(p["length_m"]) * float(p["multiple"])
    return own + sum(gate_area_m2(instance.cell) for instance in cell.instances)
