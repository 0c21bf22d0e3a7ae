import pytest

from common.errors import ConfigError
from common.networks import encoder_network


def test_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr("common.networks.encoders.optional_import", lambda _name: (None, False))
    with pytest.raises(
        ConfigError, match=r"needs segmentation-models-pytorch; install it with 'python -m pip install -r"
    ):
        encoder_network("Unet-vgg11_bn", 3, 2)


@pytest.mark.parametrize("norm", ["none", "instance"])
def test_other_normalization_is_refused_in_place_of_being_ignored(norm):
    with pytest.raises(ConfigError, match=f"has batch normalization, but norm is '{norm}'; accepted is 'batch'"):
        encoder_network("Unet-vgg11_bn", 3, 2, norm=norm)
