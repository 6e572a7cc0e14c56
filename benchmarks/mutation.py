"""Small wrong changes of a source file, one at a time: what a test of it should notice.

Comparisons, arithmetic, `and` and `or`, conditions and numbers are changed. Annotations, docstrings, decorators and
what is raised are left alone: a message is no behaviour that every test must pin.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    Args:
        scope: the function's qualified name, or the class's, or empty.
        line: the source line, stripped.
        change: the expression before and after it.
        occurrence: which of those with the same scope, line and change.
        first_line: of the innermost function that executes it (its first decorator's); 0 where importing does.
        number: its place among the file's mutants.
    """

    file: str
    scope: str
    line: str
    change: str
    occurrence: int
    first_line: int
    number: int

    @property
    def key(self) -> str:
        """Names it by what it is, not where: lines that are added elsewhere leave it the same."""
        return "|".join([self.file, self.scope, self.line, self.change, str(self.occurrence)])


def mutants(file: str, source: str) -> list[Mutant]:
    """All mutants of a file, in the order of its text."""
    lines, found, seen = source.splitlines(), [], Counter[tuple[str, str, str]]()
    for number, one in enumerate(_changes(ast.parse(source))):
        change = f"{ast.unparse(one.old)} → {ast.unparse(one.new)}"
        name = (one.place.scope, lines[one.old.lineno - 1].strip(), change)
        found.append(Mutant(file, *name, seen[name], one.place.first_line, number))
        seen[name] += 1
    return found


def mutated(source: str, number: int) -> ast.Module:
    """The file with its `number`-th change."""
    tree = ast.parse(source)
    one = list(_changes(tree))[number]
    value = getattr(one.parent, one.field)
    if isinstance(value, list):
        value[next(i for i, item in enumerate(value) if item is one.old)] = one.new
    else:
        setattr(one.parent, one.field, one.new)
    return ast.fix_missing_locations(tree)


@dataclass(frozen=True)
class _Place:
    scope: str = ""
    first_line: int = 0

    def inside(self, node: ast.AST) -> _Place:
        if not isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            return self
        scope = f"{self.scope}.{node.name}".lstrip(".")
        first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
        return _Place(scope, first if isinstance(node, FUNCTIONS) else self.first_line)


@dataclass(frozen=True)
class _Change:
    old: ast.expr
    new: ast.expr
    parent: ast.AST
    field: str
    place: _Place


def _changes(tree: ast.Module) -> Iterator[_Change]:
    return _below(tree, _Place())


def _below(node: ast.AST, place: _Place) -> Iterator[_Change]:
    if isinstance(node, ast.Raise | ast.JoinedStr):
        return
    inside = place.inside(node)
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        # the defaults of arguments are computed where the function is defined
        where = place if name == "args" and isinstance(node, FUNCTIONS) else inside
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.expr):
                yield from _of(child, node, name, where)
            if isinstance(child, ast.AST) and not (isinstance(child, ast.keyword) and child.arg == "strict"):
                yield from _below(child, where)


def _of(node: ast.expr, parent: ast.AST, name: str, place: _Place) -> Iterator[_Change]:
    def put(new: ast.expr) -> _Change:
        return _Change(node, new, parent, name, place)

    match node:
        case ast.Compare(left, ops, comparators):
            for i, op in enumerate(ops):
                others = [*ops[:i], COMPARED[type(op)](), *ops[i + 1 :]]
                yield put(ast.Compare(left, others, comparators))
        case ast.BinOp(left, op, right) if type(op) in COMPUTED and not (_text(left) or _text(right)):
            yield put(ast.BinOp(left, COMPUTED[type(op)](), right))
        case ast.BoolOp(op, values):
            yield put(ast.BoolOp(ast.And() if isinstance(op, ast.Or) else ast.Or(), values))
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield put(operand)
        case ast.Constant(bool() as value):
            yield put(ast.Constant(not value))
        case ast.Constant(int() as value):
            yield put(ast.Constant(value + 1))
        case ast.Constant(float() as value):
            yield put(ast.Constant(2 * value if value else 1.0))
    condition = (name == "test" and not isinstance(parent, ast.Assert)) or name == "ifs"
    plain = not isinstance(node, ast.Compare | ast.BoolOp | ast.Constant) and ast.unparse(node) != "TYPE_CHECKING"
    if condition and plain and not (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)):
        yield put(ast.UnaryOp(ast.Not(), node))


def _text(node: ast.expr) -> bool:
    """Whether it is a string, or the None of a type: no arithmetic is done with these."""
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | None))
