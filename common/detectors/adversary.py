"""Trains a small generator of images beside the network, which learns to be unsure of them (Lee 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from monai.networks.layers.factories import Conv, Pool
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ..engine.iteration import Terms, generator_of_step, train_on_terms
from ..errors import ConfigError
from .exposure import check_weight, exposed_losses, tensors_of, uniform_cross_entropy

LATENT = 64
"""Length of the noise that an image is made of."""

REDUCTION = 8
"""How many times smaller the first map of the generator is along each axis: three levels."""


class PatchGenerator(nn.Module):
    """Makes patches of noise: three levels of upsampling and convolution, few channels.

    Args:
        spatial_dims: Number of spatial axes, 2 or 3.
        channels: Number of channels of a patch.
        roi_size: Size of a patch in voxels along each axis, multiples of 8.
        width: Number of channels of the finest map, at least 1. Default 8.

    Raises:
        ConfigError: When the size is no multiple of 8.
    """

    def __init__(self, spatial_dims: int, channels: int, roi_size: Sequence[int], *, width: int = 8) -> None:
        super().__init__()
        if any(size < REDUCTION or size % REDUCTION for size in roi_size):
            raise ConfigError(f"roi_size is {list(roi_size)}; the generator of patches takes multiples of {REDUCTION}")
        convolution = Conv[Conv.CONV, spatial_dims]
        widths = [width * 4, width * 2, width]
        self.shape = (widths[0], *(size // REDUCTION for size in roi_size))
        self.project = nn.Linear(LATENT, int(torch.tensor(self.shape).prod()))
        levels: list[nn.Module] = []
        for before, after in zip(widths, [*widths[1:], width], strict=True):
            levels += [nn.Upsample(scale_factor=2), convolution(before, after, 3, padding=1), nn.LeakyReLU(0.2)]
        self.levels = nn.Sequential(*levels, convolution(width, channels, 3, padding=1))

    def forward(self, noise: Tensor) -> Tensor:
        """Maps noise ``(B, LATENT)`` to patches ``(B, C, *roi_size)``, in units of the normalized image."""
        patches: Tensor = self.levels(self.project(noise).unflatten(1, self.shape))
        return patches


class PatchDiscriminator(nn.Module):
    """Tells patches of images from generated ones: three strided convolutions and a mean.

    Args:
        spatial_dims: Number of spatial axes, 2 or 3.
        channels: Number of channels of a patch.
        width: Number of channels of the finest map, at least 1. Default 8.
    """

    def __init__(self, spatial_dims: int, channels: int, *, width: int = 8) -> None:
        super().__init__()
        convolution = Conv[Conv.CONV, spatial_dims]
        levels: list[nn.Module] = []
        for before, after in ((channels, width), (width, 2 * width), (2 * width, 4 * width)):
            levels += [convolution(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.levels = nn.Sequential(*levels, Pool[Pool.ADAPTIVEAVG, spatial_dims](1), nn.Flatten())
        self.head = nn.Linear(4 * width, 1)

    def forward(self, patches: Tensor) -> Tensor:
        """Maps patches ``(B, C, H, W[, D])`` to logits ``(B, 1)``; above 0 means an image."""
        logits: Tensor = self.head(self.levels(patches))
        return logits


class AdversarialStep:
    """Trains a discriminator, a generator and the network in turn on every batch.

    Lee et al., *Training Confidence-calibrated Classifiers for Detecting Out-of-Distribution Samples*, ICLR 2018 (Lee
    2017 in Karimi and Gholipour 2023). The generator learns to pass for images and to make the network unsure, so that
    its patches lie near the edge of the distribution. The network learns to be unsure of them. Our reading for
    segmentation: patches of the training's size, small convolutional networks, the uniform term over all voxels. Under
    distributed training every process has a generator of its own.

    Args:
        spatial_dims: Number of spatial axes, 2 or 3.
        in_channels: Number of channels of the image.
        roi_size: Size of a patch in voxels along each axis, multiples of 8.
        exposure_weight: Weight of the uniform terms, at least 0. Default 0.5.
        adversary_rate: Learning rate of generator and discriminator, above 0. Default 0.0002.
        softmax: Whether logits are those of a softmax. Default false.
        seed: Seed of the draws and of the first weights, at least 0. Default 0.
        device: Device of generator and discriminator. Default the CPU.

    Raises:
        ConfigError: When a setting is not accepted.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        roi_size: Sequence[int],
        *,
        exposure_weight: float = 0.5,
        adversary_rate: float = 0.0002,
        softmax: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        check_weight(exposure_weight)
        if not adversary_rate > 0:
            raise ConfigError(f"adversary_rate is {adversary_rate}; accepted are rates above 0")
        self.exposure_weight, self.softmax, self.seed = exposure_weight, softmax, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.generator = PatchGenerator(spatial_dims, in_channels, roi_size).to(device)
            self.discriminator = PatchDiscriminator(spatial_dims, in_channels).to(device)
        settings: dict[str, Any] = {"lr": adversary_rate, "betas": (0.5, 0.999)}
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), **settings)
        self.discriminator_optimizer = torch.optim.Adam(self.discriminator.parameters(), **settings)

    def __call__(self, engine: Any, batchdata: Mapping[str, Tensor]) -> Terms:
        """Runs one iteration of MONAI's trainer; returns the loss and its terms, detached."""
        batch, device = tensors_of(batchdata), engine.state.device
        images = batch["image"].to(device)
        noise = torch.randn(len(images), LATENT, generator=generator_of_step(engine, self.seed)).to(device)
        other = self.generator(noise)
        self.train_discriminator(images, other.detach())
        engine.network.train()
        self.train_generator(engine.network, other)
        losses = partial(exposed_losses, loss=engine.loss_function, weight=self.exposure_weight, softmax=self.softmax)
        return train_on_terms(engine, {**batch, "other": other.detach()}, losses)

    def train_discriminator(self, images: Tensor, other: Tensor) -> None:
        """Takes a step towards telling images ``(B, C, H, W[, D])`` from generated ones."""
        found = self.discriminator(images), self.discriminator(other)
        loss = binary_cross_entropy_with_logits(found[0], torch.ones_like(found[0]))
        loss = loss + binary_cross_entropy_with_logits(found[1], torch.zeros_like(found[1]))
        self._step(loss, self.discriminator, self.discriminator_optimizer)

    def train_generator(self, network: nn.Module, other: Tensor) -> None:
        """Takes a step towards images that pass for real ones and that the network is unsure of.

        Args:
            network: Network, whose weights stay as they are.
            other: Generated images with their graph.
        """
        found = self.discriminator(other)
        loss = binary_cross_entropy_with_logits(found, torch.ones_like(found))
        loss = loss + self.exposure_weight * uniform_cross_entropy(network(other), softmax=self.softmax)
        self._step(loss, self.generator, self.generator_optimizer)

    @staticmethod
    def _step(loss: Tensor, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Changes the weights of one module alone."""
        parameters = list(module.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _members(self) -> dict[str, Any]:
        names = ("generator", "discriminator", "generator_optimizer", "discriminator_optimizer")
        return {name: getattr(self, name) for name in names}

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of both networks and of their optimizers."""
        return {name: member.state_dict() for name, member in self._members().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what :meth:`state_dict` returned."""
        for name, member in self._members().items():
            member.load_state_dict(state[name])
