import pytest

from common.errors import ConfigError
from common.networks import encoder_network


def test_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr("common.networks.encoders.optional_import", lambda _name: (None, False))
    with pytest.raises(
        ConfigError, match=r"needs segmentation-models-pytorch; install it with 'python -m pip install -r"
    ):
        encoder_network("Unet-vgg11_bn", 3, 2)
