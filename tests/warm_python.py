"""Runs what ``python -m NAME ...`` or ``python -c CODE ...`` would, in a process that was forked with MONAI imported.

Every import of MONAI takes seconds, and tests start some two hundred processes. Those that need a new interpreter, such
as the ones that ``torchrun`` starts, get one; the others are forked from one server, see ``start_python`` in
``processes.py``, which hands over ``REQUEST``.
"""

import os
import resource
import runpy
import sys
import warnings
from pathlib import Path

import torch
from matplotlib.figure import Figure

from tests.pictures import RENDER, write_blank


def take_over(request):
    """Makes this process what a new one would be: its folder, environment, path, output and limits."""
    os.setsid()
    for descriptor in (1, 2):
        file = os.open(request["output"][descriptor - 1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, descriptor)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    added = [path for path in request["env"].get("PYTHONPATH", "").split(os.pathsep) if path]
    installed = [path for path in sys.path if Path(path).is_relative_to(sys.prefix) or "lib/python" in path]
    sys.path[:] = [request["cwd"], *added, *installed]
    sys.dont_write_bytecode = True
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if request["file_size"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"], request["file_size"]))
    Figure.savefig = RENDER if request["pictures"] else write_blank
    assert not [name for name in sys.modules if name.split(".")[0] in ("common", "scripts")]


def execute(kind, program, *arguments):
    """Runs a module or a text of code as the main program, and reports an error as the interpreter does."""
    sys.argv = [kind, *arguments]
    try:
        if kind == "-m":
            runpy.run_module(program, run_name="__main__", alter_sys=True)
        else:
            exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
    except (Exception, KeyboardInterrupt):  # noqa: BLE001 - whatever the program raises
        sys.excepthook(*sys.exc_info())
        sys.exit(1)


# Absent where doctests are looked for.
if request := globals().get("REQUEST"):
    take_over(request)
    execute(*request["command"])
