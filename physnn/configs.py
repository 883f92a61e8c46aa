"""Where the data files live, in the source tree or a wheel, and how they are read."""

import tomllib
from pathlib import Path
from typing import Any


def config_folder() -> Path:
    """The folder `configs/` of the source tree, or its copy inside the wheel."""
    here = Path(__file__).parent
    for folder in (here.parent / "configs", here / "_configs"):
        if (folder / "hardware").is_dir():
            return folder
    raise FileNotFoundError(
        f"The folder `configs` must lie beside {here}, but it does not: reinstall"
        " physnn."
    )


def find_config(section: str, name_or_path: str | Path) -> Path:
    """The TOML file at `name_or_path`, or called so in `configs/<section>/`.

    Raises `FileNotFoundError` that lists the names there are.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml" and path.is_file():
        return path
    folder = config_folder() / section
    path = folder / f"{name_or_path}.toml"
    if path.is_file():
        return path
    names = sorted(found.stem for found in folder.glob("*.toml"))
    raise FileNotFoundError(
        f"`{name_or_path}` must be a TOML file or one of {names} in configs/{section},"
        " but is neither."
    )


def read_described(path: Path) -> dict[str, Any]:
    """The tables of a TOML file that says what it is, without its `description`.

    Raises `ValueError` for a file that is not TOML and one without a description.
    """
    try:
        rows = tomllib.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be a TOML file, but: {error}.") from error
    if not rows.pop("description", None):
        raise ValueError(f"{path} must begin with a `description`, but has none.")
    return rows
