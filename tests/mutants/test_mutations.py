import ast

import pytest

from tests.mutants.mutations import count_mutants, mutate


def mutants_of(source):
    return [mutate(source, number)[0] for number in range(count_mutants(source))]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a < b <= c", ["a <= b <= c", "a < b < c"]),
        ("x is None", ["x is not None"]),
        ("a + b", ["a - b"]),
        ("a //= b", ["a *= b"]),
        ("a and b", ["a or b"]),
        ("not a", ["a"]),
        ("-a", ["a"]),
        ("x = 2", ["x = 3"]),
        ("x = True", ["x = False"]),
        ("f(a, b=c)", ["f(a)"]),
        ("x = a if b else c", ["x = a if not b else c"]),
        ("if a:\n    b", ["if not a:\n    b"]),
        ("def f():\n    return a", ["def f():\n    return None"]),
        ("a[1] + 2", ["a[1] - 2", "a[2] + 2", "a[1] + 3"]),
    ],
)
def test_each_mutant_changes_one_thing(source, expected):
    assert mutants_of(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "'''A docstring.'''",
        "x: Literal[1, 2]",
        "@cache(size=1)\ndef f(x: Size[2]) -> Size[1]:\n    g(x)",
        "raise ValueError(f'{a + 1} is not', key=1)",
        "logger.info('%d', a + 1)",
        "from a import b",
        "x = 'text'",
    ],
)
def test_what_only_says_something_has_none(source):
    assert mutants_of(source) == []


def test_mutant_is_told_by_its_line():
    source = "a\nb = c + 1\n"
    assert mutate(source, 0) == ("a\nb = c - 1", "line 2: c + 1 -> c - 1")
    assert ast.parse(mutate(source, 1)[0]).body[1].value.right.value == 2
