"""Videos in the layout of CholecSeg8k."""

import numpy as np
import pytest
from PIL import Image

from common.data.cases import decathlon_cases, labeled_cases
from common.data.endoscopy import CODES, endoscopy_cases, is_endoscopy
from common.data.folders import find_scans
from common.data.scans import evaluation_cases
from common.data.split import patient_of, split_cases
from common.errors import LabelError, MissingDataError
from common.transforms import CheckLabeld, DecodeMaskd, LoadScand


def write_frame(folder, number, mask=None, size=(20, 12)):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), number % 250, np.uint8)).save(folder / f"frame_{number}_endo.png")
    for name in ("mask", "color_mask"):
        Image.new("RGB", size).save(folder / f"frame_{number}_endo_{name}.png")
    if mask is not None:
        Image.fromarray(mask).save(folder / f"frame_{number}_endo_watershed_mask.png")


@pytest.fixture
def tree(tmp_path):
    """Two videos of two clips; the last frame has no mask."""
    for video in ("video01", "video09"):
        for clip in ("00080", "00160"):
            for number in (3, 4):
                gray = np.full((12, 20), 50, np.uint8)
                gray[2:5, 3:9], gray[6:8, 1:4], gray[0], gray[-1] = 21, 31, 255, 0
                last = (video, clip, number) == ("video09", "00160", 4)
                mask = None if last else np.stack([gray] * 3, axis=-1)
                write_frame(tmp_path / "seg8k" / video / f"{video}_{clip}", number, mask)
    return tmp_path / "seg8k"


def test_frames_are_found_with_their_masks_and_videos(tree):
    cases = endoscopy_cases(tree)
    assert len(cases) == 8
    assert [case["case"] for case in cases[:3]] == [
        f"video01_{part}" for part in ("00080_frame_3", "00080_frame_4", "00160_frame_3")
    ]
    assert {patient_of(case) for case in cases} == {"video01", "video09"}
    assert ["label" in case for case in cases] == [True] * 7 + [False]
    assert all(case["label"].endswith("_endo_watershed_mask.png") for case in cases[:7])
    assert len({case["case"] for case in cases}) == 8


def test_folder_is_recognized_and_one_with_a_listing_is_not(tree, decathlon_folder):
    assert is_endoscopy(tree)
    assert not is_endoscopy(decathlon_folder())
    assert not is_endoscopy(tree / "nothing")
    assert [case["case"] for case in decathlon_cases(tree)] == [case["case"] for case in endoscopy_cases(tree)[:7]]
    assert len(labeled_cases(str(tree), "", spatial_dims=2)) == 7
    assert len(find_scans(tree, spatial_dims=2)) == 8
    assert {case["group"] for case in evaluation_cases(str(tree), None, "", spatial_dims=2)} == {"seg8k"}


def test_clips_may_be_left_out(tmp_path):
    write_frame(tmp_path / "video01", 7)
    (case,) = endoscopy_cases(tmp_path)
    assert (case["case"], case["patient"]) == ("video01_frame_7", "video01")


def test_split_by_video(tree):
    parts = split_cases(decathlon_cases(tree), 0.5, 0)
    videos = [{case["patient"] for case in parts[part]} for part in ("train", "val")]
    assert sorted(map(len, videos)) == [1, 1]
    assert not videos[0] & videos[1]


def test_folder_without_frames(tmp_path):
    with pytest.raises(MissingDataError, match=r"holds no frame <video>/<clip>/frame_<number>_endo\.png"):
        endoscopy_cases(tmp_path)


class TestMasks:
    def load(self, case):
        return CheckLabeld("label")(DecodeMaskd("label")(LoadScand(["image", "label"])(case)))["label"]

    def test_gray_values_become_classes_and_others_background(self, tree):
        label = self.load(endoscopy_cases(tree)[0])
        expected = np.zeros((20, 12))
        expected[3:9, 2:5], expected[1:4, 6:8] = 2, 5
        np.testing.assert_array_equal(label[0].numpy(), expected)

    def test_every_class_has_its_gray_value(self, tmp_path):
        gray = np.tile(np.array([*CODES, 0, 255, 35], np.uint8), (4, 1))
        write_frame(tmp_path / "v", 1, np.stack([gray] * 3, axis=-1), size=(16, 4))
        label = self.load(endoscopy_cases(tmp_path)[0])
        assert label[0, :, 0].tolist() == [*range(13), 0, 0, 0]

    def test_colored_mask_is_refused(self, tmp_path):
        mask = np.zeros((12, 20, 3), np.uint8)
        mask[3, 3] = (255, 0, 0)
        write_frame(tmp_path / "v", 1, mask)
        with pytest.raises(
            LabelError, match="case 'v_frame_1': mask with colors; a watershed mask holds shades of gray"
        ):
            self.load(endoscopy_cases(tmp_path)[0])

    def test_masks_of_other_data_sets_pass(self):
        case = {"label": np.array([[[3, 50]]])}
        assert DecodeMaskd("label")(case)["label"] is case["label"]
