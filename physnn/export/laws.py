"""Laws: formulas of behavioral devices, parsed once and written by every exporter."""

import ast
import functools
import math
import operator
from collections.abc import Callable, Mapping

import numpy as np

FUNCTIONS = ("abs", "exp", "max", "min", "sqrt", "tanh")
_BINARY = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_NUMERIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_NUMPY = {"max": "maximum", "min": "minimum"}
Values = float | np.ndarray


def number(value: int | float) -> str:
    """A number as every file holds it: 9 significant digits and no suffix letter.

    Nine digits bring every float32 back exactly. Raises `ValueError` for a value that
    is not finite, which no simulator can read.
    """
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"A number to export must be finite, but is {value}.")
    text = f"{value:.9g}"
    return "0" if float(text) == 0 else text


def real(value: int | float) -> str:
    """A number that Verilog takes for a real: there `1/1000` is 0, as of integers."""
    text = number(value)
    return text if "." in text or "e" in text else f"{text}.0"


def nets_of(law: str) -> frozenset[str]:
    """The nets whose voltages a law reads. Raises `ValueError` as `render` does."""
    return frozenset(_walk(law)[0])


def names_of(law: str) -> frozenset[str]:
    """The cell parameters a law reads. Raises `ValueError` as `render` does."""
    return frozenset(_walk(law)[1])


def render(
    law: str,
    *,
    name: Callable[[str], str],
    voltage: Callable[..., str] = lambda *nets: f"v({','.join(nets)})",
    call: Callable[..., str] = lambda function, *texts: (
        f"{function}({','.join(texts)})"
    ),
    constant: Callable[[float], str] = number,
    gap: str = "",
) -> str:
    """A law in the syntax of a language, SPICE unless told otherwise.

    A law is a formula in `v(net)`, `v(net, net)` [V], cell parameters, numbers, the
    operators + - * / and the functions abs, exp, max, min, sqrt, tanh.

    - `name` writes a parameter, `voltage` one or two nets, `call` a function and the
      texts of its arguments, `constant` a number; `gap` goes around operators.

    Raises `ValueError` for anything else.
    """

    def text(node) -> str:
        match node:
            case ast.Constant(value=int() | float() as value):
                return constant(value)
            case ast.Name():
                return name(node.id)
            case ast.UnaryOp():
                return f"(-{text(node.operand)})"
            case ast.BinOp():
                sign = f"{gap}{_BINARY[type(node.op)]}{gap}"
                return f"({text(node.left)}{sign}{text(node.right)})"
            case ast.Call(func=ast.Name(id="v")):
                return voltage(*_nets(node))
            case _:  # a function: `_check` let nothing else through
                return call(node.func.id, *map(text, node.args))

    body = _parse(law)
    _check(body, law)
    return text(body)


def evaluate(law: str, volts: Mapping[str, Values], names: Mapping[str, Values]):
    """The value of a law at voltages of its nets [V] and values of its parameters.

    Arrays broadcast; computed in float64. Raises `ValueError` as `render` does, and
    `KeyError` for a net or parameter without a value.
    """

    def value(node):
        match node:
            case ast.Constant(value=int() | float() as constant):
                return np.float64(constant)
            case ast.Name():
                return np.asarray(names[node.id], np.float64)
            case ast.UnaryOp():
                return -value(node.operand)
            case ast.BinOp():
                return _NUMERIC[type(node.op)](value(node.left), value(node.right))
            case ast.Call(func=ast.Name(id="v")):
                plus, *minus = (np.asarray(volts[net]) for net in _nets(node))
                return plus - minus[0] if minus else plus
            case _:
                word = str(node.func.id)
                function = getattr(np, _NUMPY.get(word, word))
                first, *others = map(value, node.args)
                if not others:
                    return function(first)
                return functools.reduce(function, others, first)

    body = _parse(law)
    _check(body, law)
    return value(body)


def _parse(law: str) -> ast.expr:
    try:
        return ast.parse(law, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"A law must be a formula, but is {law!r}.") from error


def _nets(node) -> list[str]:
    return [argument.id for argument in node.args]


def _check(node, law: str) -> None:
    match node:
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            return
        case ast.Name():
            return
        case ast.UnaryOp(op=ast.USub()):
            return _check(node.operand, law)
        case ast.BinOp() if type(node.op) in _BINARY:
            _check(node.left, law)
            return _check(node.right, law)
        case ast.Call(func=ast.Name(id="v"), keywords=[]):
            if len(node.args) in (1, 2) and all(
                isinstance(argument, ast.Name) for argument in node.args
            ):
                return None
        case ast.Call(func=ast.Name(id=function), keywords=[]):
            if function in FUNCTIONS and node.args:
                for argument in node.args:
                    _check(argument, law)
                return None
    raise ValueError(
        f"A law must hold only v(net), parameters, numbers, + - * / and the functions"
        f" {', '.join(FUNCTIONS)}, but {law!r} holds {ast.unparse(node)!r}."
    )


def _walk(law: str) -> tuple[set[str], set[str]]:
    body = _parse(law)
    _check(body, law)
    nets, names = set(), set()

    def visit(node):
        match node:
            case ast.Name():
                names.add(node.id)
            case ast.Call(func=ast.Name(id="v")):
                nets.update(_nets(node))
            case ast.Call():
                for argument in node.args:
                    visit(argument)
            case _:
                for child in ast.iter_child_nodes(node):
                    visit(child)

    visit(body)
    return nets, names
