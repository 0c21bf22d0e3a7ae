"""Measures that need passes of their own: dropout, ensembles, gradients, other networks; higher is more abnormal."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..runtime.weights import load_weights
from .interface import Array
from .outputs import class_logits, entropy, foreground_mean, softmax_uncertainty
from .scan import Scan

DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)


def with_weights(network: nn.Module, path: str, device: torch.device) -> nn.Module:
    """Returns a copy of a network with other weights, in evaluation mode.

    Raises:
        MissingDataError: When there is no such file.
        WeightsError: When the weights belong to another network.
    """
    other = copy.deepcopy(network)
    load_weights(other, path, device=device)
    return other.to(device).eval()


def has_dropout(network: nn.Module) -> bool:
    """Returns whether a network has a layer of dropout that drops anything."""
    return any(isinstance(module, DROPOUT) and module.p > 0 for module in network.modules())


def mean_entropy(probabilities: Sequence[Tensor]) -> float:
    """Returns the entropy of the mean probability, averaged over its foreground, in nats; ``ln C`` without one.

    Karimi and Gholipour 2023, section III-D, methods a and b.

    Args:
        probabilities: Probabilities of classes of each pass, ``(B, C, H, W[, D])``, background first.
    """
    mean = torch.stack([found.double() for found in probabilities]).mean(dim=0)
    return foreground_mean(entropy(mean), mean, float(np.log(mean.shape[1])))


class DropoutPasses:
    """Measures the entropy of the mean probability of several passes with dropout (UNC-Dropout).

    Args:
        network: Network with layers of dropout, trained with them.
        passes: Number of passes, at least 1. Default 10, the paper's.

    Raises:
        ConfigError: When the network has no dropout.
    """

    def __init__(self, network: nn.Module, *, passes: int = 10) -> None:
        if not has_dropout(network):
            raise ConfigError("network has no layer that drops anything; give dropout a share above 0, such as 0.1")
        self.network, self.passes = copy.deepcopy(network).eval(), passes
        for module in self.network.modules():
            if isinstance(module, DROPOUT):
                module.train()

    @torch.no_grad()
    def __call__(self, scan: Scan) -> Array:
        """Returns the mean entropy; the same scan gets the same masks."""
        devices = [scan.image.device] if scan.image.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(scan.generator().initial_seed())
            found = [_probabilities(scan, self.network) for _ in range(self.passes)]
        return np.array([mean_entropy(found)])


class EnsemblePasses:
    """Measures the entropy of the mean probability of several networks (UNC-Ensemble).

    Args:
        networks: Networks that were trained alike, with other seeds, in evaluation mode; at least two.

    Raises:
        ConfigError: When there are fewer than two.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        if len(networks) < 2:
            raise ConfigError(f"networks holds {len(networks)}; an ensemble needs two or more, see ensemble_files")
        self.networks = list(networks)

    @torch.no_grad()
    def __call__(self, scan: Scan) -> Array:
        """Returns the mean entropy."""
        return np.array([mean_entropy([_probabilities(scan, network) for network in self.networks])])


class OdinPass:
    """Measures ODIN: one minus the largest softmax at a temperature, after a step that makes the network surer.

    Liang et al., *Enhancing the Reliability of Out-of-distribution Image Detection in Neural Networks*, ICLR 2018:
    ``x + epsilon * sign(gradient of log max softmax(logits / T))``. The gradient is of the mean over all voxels of a
    window, the score the mean over the foreground that is predicted after the step.

    Args:
        temperature: The T of the formula, above 0. Default 1000, the paper's.
        epsilon: Length of the step, in units of the normalized image, at least 0. Default 0.0014, the paper's for
            images in [0, 1].
    """

    def __init__(self, *, temperature: float = 1000.0, epsilon: float = 0.0014) -> None:
        self.temperature, self.epsilon = temperature, epsilon

    def perturb(self, windows: Tensor, network: Callable[[Tensor], Tensor], *, softmax: bool) -> Tensor:
        """Returns the windows ``(B, C, H, W[, D])`` after the step."""
        with torch.enable_grad():
            start = windows.detach().clone().requires_grad_()
            logits = class_logits(network(start), softmax=softmax)
            sure = (logits.double() / self.temperature).log_softmax(dim=1).amax(dim=1)
            (gradient,) = torch.autograd.grad(sure.mean(), start)
        return windows + self.epsilon * gradient.sign()

    def __call__(self, scan: Scan) -> Array:
        """Returns the uncertainty after the step."""

        def network(windows: Tensor) -> Tensor:
            plain = windows.as_tensor() if hasattr(windows, "as_tensor") else windows
            perturbed = self.perturb(plain, scan.network, softmax=scan.softmax)
            with torch.no_grad():
                return torch.as_tensor(scan.network(perturbed))

        with torch.no_grad():
            logits = class_logits(scan.segment_with(_Function(network, scan.network)), softmax=scan.softmax)
        return np.array([softmax_uncertainty(logits, temperature=self.temperature)])


class OwnNetworkPass:
    """Measures the softmax uncertainty of a network of the detector's own, such as one of Outlier Exposure.

    Args:
        network: Network that was trained to be unsure of other images, in evaluation mode.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    @torch.no_grad()
    def __call__(self, scan: Scan) -> Array:
        """Returns the uncertainty and the Dice of that network, NaN without a label."""
        logits = scan.segment_with(self.network)
        return np.array([softmax_uncertainty(class_logits(logits, softmax=scan.softmax)), scan.dice(logits)])


class _Function(nn.Module):
    """A function of windows in the place of a network, whose modules the inferer may look at."""

    def __init__(self, function: Callable[[Tensor], Tensor], network: nn.Module) -> None:
        super().__init__()
        self.function, self.network = function, network

    def forward(self, windows: Tensor) -> Tensor:
        """Returns the function's value."""
        return self.function(windows)


def _probabilities(scan: Scan, network: nn.Module) -> Tensor:
    """Probabilities of classes that a network gives of a scan."""
    return class_logits(scan.segment_with(network), softmax=scan.softmax).softmax(dim=1)
