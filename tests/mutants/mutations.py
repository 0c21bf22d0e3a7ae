"""Small changes of a module's code, each of which a test should notice."""

import ast
from dataclasses import dataclass

COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATIONS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
LEFT_ALONE = ("annotation", "returns", "decorator_list", "type_params")
"""Parts of a node that say nothing of what the code does."""


@dataclass
class Mutant:
    """One change: ``holder`` holds the ``old`` node, as a field or in a list, where the ``new`` one comes."""

    holder: object
    place: str | int
    old: ast.AST
    new: ast.AST

    def __str__(self):
        old, new = (ast.unparse(node).partition("\n")[0] for node in (self.old, self.new))
        return f"line {self.old.lineno}: {old} -> {new}"

    def put(self, node):
        if isinstance(self.holder, list):
            self.holder[self.place] = node
        else:
            setattr(self.holder, self.place, node)


def variants(node):
    """What may come in place of a node."""
    if isinstance(node, ast.Compare):
        for index, kind in enumerate(node.ops):
            ops = [*node.ops[:index], COMPARISONS[type(kind)](), *node.ops[index + 1 :]]
            yield ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        yield ast.BinOp(node.left, OPERATIONS[type(node.op)](), node.right)
    elif isinstance(node, ast.AugAssign) and type(node.op) in OPERATIONS:
        yield ast.AugAssign(node.target, OPERATIONS[type(node.op)](), node.value)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.And() if isinstance(node.op, ast.Or) else ast.Or(), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    elif isinstance(node, ast.If):
        yield ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    elif isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
        yield ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Call):
        for index in [place for place, word in enumerate(node.keywords) if not guards(word)]:
            yield ast.Call(node.func, node.args, node.keywords[:index] + node.keywords[index + 1 :])


def guards(node):
    """Whether a keyword finds our own mistakes, as an assertion does, and changes nothing else."""
    return isinstance(node, ast.keyword) and node.arg == "strict"


def silent(node):
    """Whether a node says or names something only: a docstring, a log line, an error, an import."""
    if isinstance(node, ast.Raise | ast.Import | ast.ImportFrom) or guards(node):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return ast.unparse(node.value.func).startswith(("logger.", "warnings."))
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def find_mutants(tree):
    """Every mutant of a tree, in the order of the code."""
    for name, value in ast.iter_fields(tree):
        if name in LEFT_ALONE:
            continue
        holder, pairs = (value, enumerate(value)) if isinstance(value, list) else (tree, [(name, value)])
        for place, node in pairs:
            if isinstance(node, ast.AST) and not silent(node):
                yield from (Mutant(holder, place, node, ast.copy_location(new, node)) for new in variants(node))
                yield from find_mutants(node)


def mutate(source, number):
    """The source with one of its mutants, and what that is."""
    tree = ast.parse(source)
    mutant = list(find_mutants(tree))[number]
    told = str(mutant)
    mutant.put(mutant.new)
    return ast.unparse(ast.fix_missing_locations(tree)), told


def count_mutants(source):
    """How many mutants a source has."""
    return sum(1 for _ in find_mutants(ast.parse(source)))
