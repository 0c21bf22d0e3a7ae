"""Lets torchvision be imported beside a CPU build of torch, in the server of these tests and its child processes.

PyPI's torchvision is built for CUDA. Beside a torch without CUDA its compiled part does not load, its operators are
not registered, and its import fails where it describes two of them to torch. MONAI Label imports torchvision but the
bundles use none of its operators, so it is enough that the two are declared. Only the tests do this: a user of a
machine without a GPU installs torchvision from PyTorch's own index.

Python runs a module of this name at its start, so it reaches the processes that MONAI Label starts for training.
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
