"""Where the data files live: in the source tree, or inside an installed wheel."""

from pathlib import Path


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
