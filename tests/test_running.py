import importlib
import subprocess
import sys

import pytest

from tests.running import importable


@pytest.fixture
def folders(tmp_path):
    """Two folders with a package ``scripts`` each."""
    for name in ("one", "two"):
        (tmp_path / name / "scripts").mkdir(parents=True)
        (tmp_path / name / "scripts" / "__init__.py").write_text(f"name = {name!r}\n")
        (tmp_path / name / "scripts" / "part.py").write_text("from . import name\n")
    return {name: tmp_path / name for name in ("one", "two")}


def test_scripts_are_those_of_one_bundle_at_a_time(folders):
    path, modules, found = list(sys.path), set(sys.modules), []
    for name in ("one", "two", "one"):
        with importable(folders[name]):
            importlib.invalidate_caches()
            found.append(importlib.import_module("scripts.part").name)
        assert sys.path == path
        assert set(sys.modules) == modules
    assert found == ["one", "two", "one"]


def test_known_modules_of_each_bundle_are_used_again(folders):
    known, found = {name: {} for name in folders}, []
    for name in ("one", "two", "one", "two"):
        with importable(folders[name], known[name]):
            importlib.invalidate_caches()
            found.append(importlib.import_module("scripts.part"))
            assert found[-1].name == name
    assert found[0] is found[2]
    assert found[1] is found[3]
    assert not [name for name in sys.modules if name.partition(".")[0] == "scripts"]


def test_scripts_are_forgotten_after_an_error(folders):
    path = list(sys.path)
    (folders["two"] / "scripts" / "__init__.py").write_text("raise RuntimeError('broken')")
    with pytest.raises(RuntimeError, match="broken"), importable(folders["two"]):
        importlib.import_module("scripts")
    assert sys.path == path
    assert "scripts" not in sys.modules


def test_handing_tests_out_needs_no_torch(repository):
    """Importing it takes seconds, in which no test can start."""
    code = "import sys, tests.conftest, tests.running, tests.processes; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
