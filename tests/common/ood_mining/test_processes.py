"""Scores that are shared out over processes."""

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from common.ood_mining import CandidateMiner, PatchDataset

CANDIDATES = 17
"""Two processes cannot share them out evenly."""


def load(case):
    image = torch.randn(1, 20, 13, generator=torch.Generator().manual_seed(int(case["case"])))
    return case | {"image": image, "label": (image > 1).to(torch.uint8)}


def score():
    network = nn.Conv2d(1, 2, 3, padding=1)
    with torch.no_grad():
        network.weight.copy_(torch.linspace(-1, 1, network.weight.numel()).reshape(network.weight.shape))
        network.bias.zero_()
    data = PatchDataset([{"image": str(n), "case": str(n)} for n in range(3)], load, [], roi_size=[8, 8])
    miner = CandidateMiner(data, network, torch.device("cpu"), batch_size=4)
    return miner.scores_of(range(data.num_original, data.num_original + CANDIDATES))


def score_as(rank, folder):
    """Scores as one of two processes."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        return score()
    finally:
        dist.destroy_process_group()


SECOND = """
import sys
import numpy as np
from tests.common.ood_mining.test_processes import score_as
np.save(f"{sys.argv[1]}/second.npy", score_as(1, sys.argv[1]))
"""


def test_two_processes_score_as_one_does(repository, start_python, tmp_path):
    alone = score()
    other = start_python(["-c", SECOND, str(tmp_path)], cwd=tmp_path, env={"PYTHONPATH": str(repository)})
    first = score_as(0, tmp_path)
    result = other.wait()
    assert result.returncode == 0, result.stderr[-2000:]
    assert alone.shape == (CANDIDATES, 2)
    assert len(np.unique(alone[:, 0])) > CANDIDATES // 2
    np.testing.assert_allclose(first, alone, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(np.load(tmp_path / "second.npy"), first)
