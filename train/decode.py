"""From the tables of a TOML file to frozen dataclasses, exactly as written."""

from typing import Any, Literal, get_args, get_origin

import cattrs


def strict_converter() -> cattrs.Converter:
    """A converter that refuses unknown keys and values of another type."""
    converter = cattrs.Converter(forbid_extra_keys=True)
    # cattrs would turn "3" and 3.7 into 3 without a word.
    for kind in (int, float, str, bool):
        converter.register_structure_hook(kind, _exactly)
    converter.register_structure_hook_func(
        lambda kind: get_origin(kind) is Literal, _one_of
    )
    return converter


def problems_of(error: cattrs.BaseValidationError) -> str:
    """Everything that a converter complains of, with the path of each key."""
    return "; ".join(cattrs.transform_error(error, format_exception=_sentence))


def _exactly(value, kind):
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        names = {int: "a whole number", float: "a number", str: "a string"}
        expected = names.get(kind, "true or false")
        raise ValueError(f"must be {expected}, but is {value!r}")
    return value


def _one_of(value: Any, kind) -> Any:
    if value not in get_args(kind):
        words = list(get_args(kind))
        raise ValueError(f"must be one of {words}, but is {value!r}")
    return value


def _sentence(error: BaseException, kind) -> str:
    is_ours = isinstance(error, ValueError)
    if is_ours and not isinstance(error, cattrs.ForbiddenExtraKeysError):
        return str(error).rstrip(".")
    return cattrs.v.format_exception(error, kind)
