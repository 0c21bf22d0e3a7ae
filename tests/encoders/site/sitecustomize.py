"""Lets torchvision be imported beside a CPU build of torch, in these tests.

PyPI's torchvision is built for CUDA. Beside a torch without CUDA its compiled part does not load, its operators are
not registered, and its import fails where it describes two of them to torch. The encoders use none of its operators, so
it is enough that the two are declared. Only the tests do this.

Python runs a module of this name at its start.
"""

import sys
from importlib.abc import MetaPathFinder

OPERATORS = ("nms", "qnms")
ARGUMENTS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class DeclareOperators(MetaPathFinder):
    """Finds nothing; declares the operators once, just before torchvision is looked for."""

    library = None

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision" and self.library is None:
            import torch

            if not torch.version.cuda:
                # Kept: a library that is forgotten takes its declarations with it.
                DeclareOperators.library = torch.library.Library("torchvision", "FRAGMENT")
                for name in OPERATORS:
                    self.library.define(name + ARGUMENTS)


sys.meta_path.insert(0, DeclareOperators())
