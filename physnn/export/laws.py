"""Laws: formulas of behavioral devices, parsed once and written by every exporter."""

import ast
import math
from collections.abc import Callable

FUNCTIONS = ("abs", "exp", "max", "min", "sqrt", "tanh")
_BINARY = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


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


def nets_of(law: str) -> frozenset[str]:
    """The nets whose voltages a law reads. Raises `ValueError` as `render` does."""
    return frozenset(_walk(law)[0])


def names_of(law: str) -> frozenset[str]:
    """The cell parameters a law reads. Raises `ValueError` as `render` does."""
    return frozenset(_walk(law)[1])


def render(law: str, *, name: Callable[[str], str]) -> str:
    """A law in the syntax that SPICE and Verilog-A share; `name` writes a parameter.

    A law is a formula in `v(net)`, `v(net, net)` [V], cell parameters, numbers, the
    operators + - * / and the functions abs, exp, max, min, sqrt, tanh. Raises
    `ValueError` for anything else.
    """

    def text(node) -> str:
        match node:
            case ast.Constant(value=int() | float() as value):
                return number(value)
            case ast.Name():
                return name(node.id)
            case ast.UnaryOp():
                return f"(-{text(node.operand)})"
            case ast.BinOp():
                operator = _BINARY[type(node.op)]
                return f"({text(node.left)}{operator}{text(node.right)})"
            case ast.Call(func=ast.Name(id="v")):
                return f"v({','.join(_nets(node))})"
            case _:  # a function: `_check` let nothing else through
                return f"{node.func.id}({','.join(map(text, node.args))})"

    body = _parse(law)
    _check(body, law)
    return text(body)


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
