"""One distribution, four packages: what is installed is what is here, and all of it."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from evals.doctor import LIBRARIES, foreign_packages

ROOT = Path(__file__).parents[1]
PACKAGES = {"physnn", "circuits", "train", "evals"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DEPENDENCIES = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
DEVELOPMENT = [Requirement(line) for line in PROJECT["dependency-groups"]["dev"]]


def run_python(*arguments, cwd, path):
    """The JSON that Python prints, run outside of the source tree."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    # Without -P the working folder would come first on the path.
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_four_packages_lie_side_by_side():
    assert foreign_packages() == {}


def test_a_foreign_package_is_noticed(tmp_path):
    foreign = tmp_path / "circuits" / "__init__.py"
    foreign.parent.mkdir()
    foreign.touch()
    found = run_python(
        "-c",
        "import json; from evals.doctor import foreign_packages;"
        " print(json.dumps(foreign_packages()))",
        cwd=tmp_path,
        path=[tmp_path, ROOT],
    )
    assert found == {"circuits": str(foreign)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    name = run_python(
        "-c",
        "import json, os, sys; from hatchling.build import build_wheel;"
        f" os.chdir({str(ROOT)!r}); print(json.dumps(build_wheel({str(folder)!r})))",
        cwd=folder,
        path=[],
    )
    return folder / name


def test_the_wheel_holds_the_four_packages_and_the_configs(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert sources == {name for name in names if name.endswith(".py")}
    configs = {
        path.relative_to(ROOT / "configs").as_posix()
        for path in (ROOT / "configs").rglob("*.toml")
    }
    prefix = "physnn/_configs/"
    assert configs
    assert configs == {
        name.removeprefix(prefix)
        for name in names
        if name.startswith(prefix) and name.endswith(".toml")
    }


def test_an_installed_copy_works_away_from_the_source(wheel, tmp_path):
    # An environment without pip was made by uv.
    pip = [sys.executable, "-m", "pip"] if find_spec("pip") else ["uv", "pip"]
    target = tmp_path / "installed"
    subprocess.run(
        [*pip, "install", "--quiet", "--no-deps", "--target", target, wheel],
        check=True,
        capture_output=True,
        timeout=120,
    )
    found = run_python(
        "-c",
        "import json, physnn, circuits, train, evals; from physnn.process import"
        " load_process; from physnn.configs import config_folder; from"
        " evals.doctor import foreign_packages; print(json.dumps([physnn.__file__,"
        " str(config_folder()), load_process('cmos28').name, foreign_packages()]))",
        cwd=tmp_path,
        path=[target],
    )
    assert found == [
        str(target / "physnn" / "__init__.py"),
        str(target / "physnn" / "_configs"),
        "cmos28",
        {},
    ]


def locked() -> dict[str, str]:
    """Name and version of every package of requirements.lock."""
    text = (ROOT / "requirements.lock").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[\w+\])?==([^\s;]+)", text, re.MULTILINE))


@pytest.mark.parametrize("wanted", DEPENDENCIES + DEVELOPMENT, ids=str)
def test_the_lock_satisfies_every_dependency(wanted):
    assert wanted.specifier.contains(locked()[wanted.name])


def test_the_lock_has_a_hash_for_every_package_and_names_no_index():
    text = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(entries) == len(locked())
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
    assert "--index" not in text


def test_every_import_is_declared():
    modules = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    modules |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    modules.add((node.module or "").split(".")[0])
    owners = metadata.packages_distributions()
    outside = modules - PACKAGES - sys.stdlib_module_names
    imported = {owners[module][0].lower().replace("_", "-") for module in outside}
    declared = {wanted.name for wanted in DEPENDENCIES}
    assert imported <= declared
    assert declared <= set(LIBRARIES)


def test_the_front_door_is_installed_under_its_name():
    scripts = PROJECT["project"]["scripts"]
    assert scripts == {"physnn": "physnn.__main__:main"}
    if shutil.which("physnn", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("physnn is not installed here; to run this: make env")
    done = subprocess.run(
        [Path(sys.executable).parent / "physnn", "--help"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    assert "quickstart" in done.stdout
