"""Digests of settings: different for different settings, equal for equal ones, in every process."""

import dataclasses
import enum
import functools
import importlib
import math
import operator
import os
import pkgutil
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceCELoss
from monai.transforms import Compose, Lambdad, RandFlipd, ScaleIntensityd, Spacingd, Transform
from monai.utils import InterpolateMode

import common
from common.errors import ConfigError
from common.runtime.digests import describe, settings_digest


class Kind:
    def __init__(self, size, state=0):
        self.size, self._state = size, state


class Slotted:
    __slots__ = ("size",)

    def __init__(self, size):
        self.size = size

    def scale(self):
        return self.size


@dataclasses.dataclass(frozen=True)
class Record:
    size: int
    _hidden: int = 0


class Color(enum.Enum):
    RED = 1
    GREEN = 2


class Taste(enum.Enum):
    RED = 1


def twice(function):
    @functools.wraps(function)
    def both(value):
        return function(function(value))

    return both


def half(value):
    return value / 2


def test_object_is_its_class_and_public_attributes():
    described = describe(Kind((2, np.float32(0.5)), state=3))
    assert described == {"kind": f"{__name__}.Kind", "settings": {"size": [2, 0.5]}}
    assert describe(ScaleIntensityd("image", factor=2.0))["kind"] == "ScaleIntensityd"
    assert describe([None, "text", True, 1, 1.5]) == [None, "text", True, 1, 1.5]


@pytest.mark.parametrize(
    "change", [{"include_background": False}, {"softmax": True}, {"batch": True}, {"weight": torch.ones(2)}], ids=str
)
def test_settings_of_the_parts_of_a_loss_count(change):
    """Torch keeps modules and buffers inside a module where nobody who looks at its attributes finds them."""
    assert settings_digest(DiceCELoss()) == settings_digest(DiceCELoss())
    assert settings_digest(DiceCELoss(**change)) != settings_digest(DiceCELoss())


def test_digest_tells_settings_apart_and_the_same_ones_together():
    def digest(factor, prob=0.5):
        return settings_digest(Compose([ScaleIntensityd("image", factor=factor), RandFlipd("image", prob=prob)]))

    assert digest(0.1) == digest(0.1)
    assert len({digest(0.1), digest(0.2), digest(0.1, 0.25)}) == 3


def leaves():
    """Settings of every kind, no two of which are equal."""
    return [
        None, True, 1, 2, 1.0, -0.0, 0.0, math.inf, -math.inf, math.nan, 10**400, "", "1", "None", 1j, 2j, b"", b"1",
        functools.partial(half, 1), functools.partial(half, 2), functools.partial(math.sqrt, 1),
        functools.partial(half, value=1), Path("a"), Path("b"), "a", torch.device("cpu"), torch.device("cuda", 1),
        "cpu", torch.float32, torch.float64, np.dtype("float32"), np.dtype("float64"), np.float32, np.float64,
        "float32", slice(1), slice(2), slice(0, 1), {1}, {1, 2}, {"1"}, set(), {}, {1: 2}, {"1": 2}, {True: 2, "x": 1},
        re.compile("a"), re.compile("a", re.IGNORECASE), Color.RED, Color.GREEN, Taste.RED, "RED", half, math.sqrt,
        twice, Kind, Slotted, Kind(1), Kind(2), Slotted(1), Slotted(2), Record(1), Record(2), Record(1, 2),
        Slotted(1).scale, Slotted(2).scale, len, np.mean, np.add, torch.sigmoid, torch.nn.functional.conv2d, [], [[]],
        [1, 2], [[1], 2], [1, [2]], {"kind": "path", "settings": "a"}, torch.ones(2), torch.ones(1, 2), torch.zeros(2),
        torch.ones(2, dtype=torch.int64), torch.ones(2, dtype=torch.bfloat16), np.ones(2), np.ones(2, "f4"),
        np.array(["a", "b"]), np.array([1, "a"], dtype=object), np.datetime64("2026-01-01"), torch.nn.ReLU(),
        torch.nn.ELU(), torch.nn.PReLU(), torch.nn.PReLU(init=0.5), Spacingd("image", 1.0), Spacingd("image", 2.0),
        Spacingd("image", 1.0, lazy=True), Spacingd("image", 1.0, dtype=np.float32), torch.contiguous_format,
    ]  # fmt: skip


def test_no_two_settings_have_the_same_digest():
    digests = [settings_digest(value) for value in leaves()]
    assert len(set(digests)) == len(digests)
    assert digests == [settings_digest(value) for value in leaves()]


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3)
HASHABLE = PLAIN | st.complex_numbers() | st.sampled_from([Color.RED, Taste.RED, half, torch.float32, Path("a")])
NESTED = st.recursive(
    HASHABLE | st.builds(slice, PLAIN) | st.sets(st.integers(), max_size=3) | st.builds(torch.tensor, st.floats()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=2) | st.integers() | st.sampled_from(["kind", "settings"]), inner, max_size=3
        )
        | st.builds(functools.partial, st.just(half), inner, value=inner)
        | st.builds(Kind, inner)
        | st.builds(Slotted, inner)
    ),
    max_leaves=8,
)


def same(first, second):
    """Whether two settings are equal, told by their kinds and parts: slow, and without any digest."""
    if isinstance(first, functools.partial):
        first, second = ([x.func, x.args, x.keywords] if type(x) is type(first) else x for x in (first, second))
    if type(first) is not type(second):
        return False
    if isinstance(first, float | complex):
        return repr(first) == repr(second)
    if isinstance(first, torch.Tensor):
        return first.numpy().tobytes() == second.numpy().tobytes()
    if isinstance(first, Kind | Slotted):
        return same(first.size, second.size)
    if isinstance(first, slice):
        return same(first.stop, second.stop)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, dict):
        pairs = [sorted(x.items(), key=lambda item: (str(type(item[0])), item[0])) for x in (first, second)]
        return same(*([list(pair) for pair in items] for items in pairs))
    return first == second


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(NESTED, NESTED)
@pytest.mark.tried(
    "Training that goes on",
    "Settings that differ in a function, path, set or object inside",
    "They are told apart; what cannot be told apart is refused.",
)
def test_digests_are_equal_just_where_settings_are(first, second):
    assert (settings_digest(first) == settings_digest(second)) == same(first, second)


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(NESTED, st.data())
def test_a_change_anywhere_inside_changes_the_digest(value, data):
    other = data.draw(HASHABLE)
    wrapped = [Kind({"a": [item, {1: functools.partial(half, item)}]}) for item in (value, other)]
    assert (settings_digest(wrapped[0]) == settings_digest(wrapped[1])) == same(value, other)


UNORDERED = """[{f"{n}", f"{n + 1}", f"{n + 2}", Path(f"{n}"), abs} for n in range(9)]"""
"""Settings whose parts come in another order in every process."""


def test_digests_are_the_same_in_every_process(repository):
    code = "from pathlib import Path; from common.runtime.digests import settings_digest; "
    code += f"print(settings_digest({UNORDERED}))"
    environment = os.environ | {"PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == settings_digest(eval(UNORDERED))


def test_values_that_mean_the_same_are_the_same():
    assert describe((1, 2)) == describe([1, 2]) == describe(range(1, 3)) == describe(torch.Size([1, 2]))
    assert describe(np.float64(0.5)) == describe(0.5)
    assert describe(np.int32(3)) == describe(3)
    assert describe(InterpolateMode.AREA) == "area"
    assert settings_digest({"a": 1, "b": 2}) == settings_digest({"b": 2, "a": 1})
    assert settings_digest(np.asfortranarray(np.eye(2))) == settings_digest(np.eye(2))


def test_what_is_drawn_from_is_no_setting():
    flip = RandFlipd("image", prob=0.5)
    before = settings_digest(Compose([flip]))
    flip.set_random_state(3)
    assert settings_digest(Compose([flip])) == before


def closure(value):
    return value


closure_a = twice(closure)
itself: list = []
itself.append(itself)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Lambdad("image", lambda image: image), r"transform\._lambd.*<lambda>|<function.*<lambda>>"),
        ([1, {"a": lambda: 1}], r"^settings\[1\]\['a'\] is <function <lambda>>, which cannot be found by its name"),
        ({"f": closure_a}, r"^settings\['f'\] is <function closure>, which cannot be found by its name"),
        (functools.partial(lambda: 1), r"^settings\[0\] is <function <lambda>>"),
        (Kind(operator.itemgetter(1)), r"^settings\.size is operator\.itemgetter\(1\), which has no settings"),
        (Kind(iter([1])), r"^settings\.size is <list_iterator object>, which has no settings"),
        (torch.Generator(), r"^settings is <torch.*Generator object>, which has no settings"),
        (torch.eye(2).to_sparse(), r"^settings is tensor\(indices.*, which is no dense tensor"),
        (itself, r"^settings\[0\] is \[\[\.\.\.\]\], which holds itself"),
        (random, r"^settings is <module 'random' .*, which has no settings"),
    ],
    ids=(
        "transform",
        "lambda",
        "closure",
        "partial",
        "function_object",
        "iterator",
        "generator",
        "sparse",
        "circle",
        "module",
    ),
)
def test_what_no_digest_tells_apart_is_refused_with_its_place(value, text):
    with pytest.raises(ConfigError, match=text) as caught:
        settings_digest(value)
    assert "use a function or class at the top of a module" in str(caught.value)
    assert "\n" not in str(caught.value)


def all_transforms(kind=Transform):
    """Every class of transforms that has been imported."""
    for child in kind.__subclasses__():
        yield child
        yield from all_transforms(child)


def test_bare_name_means_one_transform():
    for module in pkgutil.walk_packages(common.__path__, "common."):
        # The app runs inside MONAI Label alone, the tools outside of any environment.
        if not module.name.startswith(("common.label_app", "common.__main__", "common.archive")):
            importlib.import_module(module.name)
    # Classes of modules that were imported once more are not all collected yet.
    reached = (k for k in all_transforms() if getattr(sys.modules.get(k.__module__), k.__name__, None) is k)
    own = {kind for kind in reached if kind.__module__.startswith(("common.", "monai."))}
    names = [kind.__qualname__ for kind in own]
    assert {"LoadScand", "ScaleByPercentiled", "Spacingd"} <= set(names)
    assert sorted({name for name in names if names.count(name) > 1}) == []


@pytest.mark.parametrize("anew", [False, True])
def test_digest_outlives_the_import_of_its_module(tmp_path, monkeypatch, anew):
    """As where MONAI Label forgets the modules of a bundle, and imports them again for the next request."""
    lines = ["class Scale:", "    def __init__(self, factor):", "        self.factor = factor"]
    (tmp_path / "served.py").write_text("\n".join([*lines, "def halve(value):", "    return value / 2"]))
    monkeypatch.syspath_prepend(tmp_path)
    served = importlib.import_module("served")
    settings_of = {"scale": served.Scale(2), "function": served.halve}
    before = settings_digest(settings_of)
    del sys.modules["served"]
    if anew:
        importlib.import_module("served")
    assert settings_digest(settings_of) == before
    assert settings_digest(settings_of | {"scale": served.Scale(3)}) != before
    sys.modules.pop("served", None)
