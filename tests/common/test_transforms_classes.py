"""Labels of softmax networks: indices, channels, and what is measured from them."""

import pytest
import torch
from monai.data import MetaTensor
from torch.testing import assert_close

from common.errors import ConfigError, LabelError
from common.metrics.segmentation import measure_segmentation
from common.transforms import ClassChannelsd, ClassIndicesd, ForegroundChannelsd, MeasureSegmentationd
from common.transforms.labels import class_indices


def label_of(*values):
    return MetaTensor(torch.tensor([[list(map(float, values))]]))


OTHER = {"in_distribution": False, "group": "hearts"}


@pytest.mark.parametrize("transform", [ClassIndicesd, ClassChannelsd, ForegroundChannelsd])
class TestLabelsOfOtherClasses:
    def test_are_left_out_and_this_is_said_once(self, transform, caplog):
        caplog.set_level("INFO")
        turn = transform("label", 2)
        for name in ("a", "b"):
            assert turn({"label": label_of(0, 5), "case": name} | OTHER) == {"case": name} | OTHER
        assert caplog.messages == [
            "labels of hearts have other classes than the network: they are not used, the scans are"
        ]

    def test_are_turned_where_the_network_has_their_numbers(self, transform):
        assert "label" in transform("label", 2)({"label": label_of(0, 1)} | OTHER)

    @pytest.mark.parametrize("own", [{"in_distribution": True}, {}, OTHER | {"damage": "flip"}])
    def test_of_own_scans_are_refused_by_name(self, transform, own):
        with pytest.raises(LabelError, match=r"^case 'a': label holds (class )?5 but "):
            transform("label", 2)({"label": label_of(0, 5), "case": "a"} | own)


class TestIndices:
    def test_values_are_taken_as_they_are(self):
        turned = ClassIndicesd("label", 4)({"label": label_of(0, 3, 1, 2)})["label"]
        assert turned.dtype == torch.uint8
        assert turned.flatten().tolist() == [0, 3, 1, 2]

    def test_named_values_are_numbered_in_their_order(self):
        transform = ClassIndicesd("label", 3, {"organ": [7, 2]})
        assert transform({"label": label_of(0, 2, 7, 5), "task": "organ"})["label"].flatten().tolist() == [0, 2, 1, 0]
        assert transform({"label": label_of(0, 2, 1, 1), "task": "other"})["label"].flatten().tolist() == [0, 2, 1, 1]

    def test_indices_of_a_plane_equal_those_of_its_voxels(self):
        label = torch.randint(0, 6, (1, 5, 4, 3))
        expected = label.clone().apply_(lambda value: {4: 1, 2: 2}.get(value, 0))
        assert_close(class_indices(label, 3, [4, 2]), expected.to(torch.uint8))

    def test_value_beyond_the_classes_is_named_with_the_case(self):
        words = r"case 'a': label holds 5 but out_channels is 3, that is, 0 to 2; set out_channels to 6 or, where "
        with pytest.raises(LabelError, match=words):
            ClassIndicesd("label", 3)({"label": label_of(0, 5), "case": "a"})

    def test_more_named_classes_than_channels_are_refused(self):
        with pytest.raises(
            ConfigError, match=r"foreground_labels \[1, 2, 3\] and background are more than out_channels"
        ):
            class_indices(torch.zeros(1, 2, 2), 3, [1, 2, 3])

    @pytest.mark.parametrize("number", [-1, 0, 1, 257])
    def test_softmax_needs_two_classes(self, number):
        with pytest.raises(ConfigError, match=f"out_channels is {number}; a softmax needs background and a class"):
            ClassIndicesd("label", number)

    def test_case_without_a_label_passes(self):
        assert ClassIndicesd("label", 3)({"image": 1}) == {"image": 1}


class TestChannels:
    def channels(self, label, **data):
        return ClassChannelsd("label", 4, {"named": [5, 2]})({"label": label} | data)["label"]

    def test_one_channel_for_each_class(self):
        turned = self.channels(label_of(0, 3, 1, 3))
        assert turned[:, 0].tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1]]

    def test_classes_that_the_data_set_does_not_have_get_none(self):
        assert len(self.channels(label_of(0, 1), classes=[0, 1])) == 1
        assert len(self.channels(label_of(0, 1), classes=[0, 1, 2])) == 2
        assert self.channels(label_of(5, 2, 1), task="named")[:, 0].tolist() == [[1, 0, 0], [0, 1, 0]]


class TestMeasure:
    def case(self, classes=2):
        generator = torch.Generator().manual_seed(0)
        probability = (3 * torch.randn(3, 6, 5, 4, generator=generator)).softmax(0)
        label = torch.randint(0, 3, (6, 5, 4), generator=generator)
        channels = torch.stack([label == index for index in range(1, classes + 1)]).float()
        return {"pred": probability, "label": channels, "image": torch.zeros(1, 6, 5, 4)}

    def test_most_probable_class_counts_even_below_one_half(self):
        case = self.case()
        measured = MeasureSegmentationd("pred", softmax=True)(case)
        best = case["pred"].argmax(0)
        assert ((case["pred"].amax(0) < 0.5) & (best > 0)).any()
        for index, metrics in measured["metrics"].items():
            predicted, truth = best == int(index), case["label"][int(index) - 1] > 0
            dice = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
            assert metrics["dsc"] == pytest.approx(float(dice))
            assert measured["shares"][index] == pytest.approx(float(truth.float().mean()))
        assert set(measured["metrics"]) == {"1", "2"}

    def test_calibration_is_that_of_each_class_against_the_rest(self):
        case = self.case()
        measured = MeasureSegmentationd("pred", softmax=True)(case)["metrics"]["2"]
        expected, _ = measure_segmentation(case["pred"][2], case["label"][1], [1.0] * 3)
        assert (measured["ece"], measured["mce"]) == (expected["ece"], expected["mce"])

    def test_classes_without_a_channel_are_not_measured(self):
        assert set(MeasureSegmentationd("pred", softmax=True)(self.case(classes=1))["metrics"]) == {"1"}
