"""Packages that are only needed when asked for."""

import importlib
from types import ModuleType

from train.corpus.files import DataError


def extra(package: str, *, group: str, purpose: str) -> ModuleType:
    """An optional package, imported now; `group` is the extra that brings it.

    Raises `DataError` with the line that installs it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.split(".")[0]
        raise DataError(
            f"{purpose} must have the package `{name}`, but it cannot be imported"
            f' ({error}): pip install "physnn[{group}]".'
        ) from error
