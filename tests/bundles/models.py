"""Weights and banks that trainings leave."""

import torch


def tensors(path):
    return torch.load(path, weights_only=True)


def assert_same_models(first, second):
    """Weights and bank are equal byte for byte; the first line tells which tensor differs."""
    torch.testing.assert_close(tensors(first / "model.pt"), tensors(second / "model.pt"), rtol=0, atol=0)
    names = ("model.pt", "signature_bank.npz")
    kept = [
        {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
        for folder in (first, second)
    ]
    assert kept[0] == kept[1]
