import json

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from common.data import CaseSplit
from common.errors import ConfigError, LabelError, NotEnoughCasesError
from common.ood_mining import PatchDataset, patch_signs, remove_foreground
from common.ood_mining.candidates import Removal
from common.ood_mining.cutting import cut_patch, patch_starts
from common.ood_mining.patches import Patch
from common.ood_mining.removal import removal_weights
from common.sampling import PatchSampler

SIZES = {2: [(10, 7), (4, 4), (8, 5)], 3: [(6, 5, 4), (4, 4, 4), (7, 4, 9)]}
PATCH = 4
DIMS = pytest.mark.parametrize("dims", [2, 3])


def load(case):
    """A case is made of its number: an image of two channels, and a label of class 2 in one corner."""
    size = SIZES[case["dims"]][case["number"]]
    generator = torch.Generator().manual_seed(case["number"])
    label = torch.zeros(1, *size, dtype=torch.uint8)
    label[(0, *[slice(1, 3)] * len(size))] = 2
    return case | {"image": torch.randint(1, 200, (2, *size), generator=generator).float(), "label": label}


def halve(data):
    """The preparation of an image: what depends on the whole of it."""
    return data | {"image": data["image"] / data["image"].max()}


def dataset(dims, **settings):
    cases = [{"number": number, "dims": dims, "case": f"case_{number}"} for number in range(3)]
    return PatchDataset(cases, load, [halve], roi_size=[PATCH] * dims, **settings)


def slow_patch(image, start, size):
    """Pixel by pixel; zero outside."""
    patch = torch.zeros(len(image), *size, dtype=image.dtype)
    for place in np.ndindex(*size):
        where = tuple(first + offset for first, offset in zip(start, place, strict=True))
        if all(index < extent for index, extent in zip(where, image.shape[1:], strict=True)):
            patch[(slice(None), *place)] = image[(slice(None), *where)]
    return patch


@pytest.mark.parametrize("size", [(10, 7), (4, 4), (1, 9), (6, 5, 9)], ids=str)
def test_patches_cover_every_pixel_once(size):
    image = torch.arange(1.0, 1 + np.prod(size)).reshape(1, *size)
    patches = [cut_patch(image, start, [PATCH] * len(size)) for start in patch_starts(size, [PATCH] * len(size))]
    assert all(patch.shape == (1, *[PATCH] * len(size)) for patch in patches)
    values = torch.cat([patch.flatten() for patch in patches])
    assert sorted(values[values > 0].tolist()) == image.flatten().tolist()


@DIMS
def test_patches_agree_with_a_loop_over_pixels(dims):
    image = load({"dims": dims, "number": 0})["image"]
    for start in patch_starts(image.shape[1:], [PATCH] * dims):
        assert_close(cut_patch(image, start, [PATCH] * dims), slow_patch(image, start, [PATCH] * dims))


@DIMS
def test_known_patches_come_first_then_the_same_without_foreground(dims):
    data = dataset(dims)
    expected = [
        (f"case_{number}", start)
        for number, size in enumerate(SIZES[dims])
        for start in patch_starts(size, [PATCH] * dims)
    ]
    patches = [data.patch(index) for index in range(len(data))]
    assert data.num_original == len(expected) == len(data) // 2
    for kind, part in (("original", patches[: len(expected)]), ("emptied", patches[len(expected) :])):
        assert part == [Patch(kind, *place) for place in expected]


@DIMS
@pytest.mark.parametrize("fill", ["zero", "mean"])
def test_foreground_is_removed_from_raw_intensities_before_the_preparation(dims, fill):
    data = dataset(dims, fill=fill)
    loaded = load({"dims": dims, "number": 0})
    emptied = loaded["image"].clone()
    for start in patch_starts(emptied.shape[1:], [PATCH] * dims):
        place = (slice(None), *(slice(first, first + PATCH) for first in start))
        emptied[place] = remove_foreground(emptied[place], loaded["label"][place], fill=fill)
    for number, start in enumerate(patch_starts(emptied.shape[1:], [PATCH] * dims)):
        known, ood = data[number], data[data.num_original + number]
        for item, image in ((known, loaded["image"]), (ood, emptied)):
            assert_close(item["image"], slow_patch(image / image.max(), start, [PATCH] * dims))
        assert_close(known["label"], slow_patch(loaded["label"], start, [PATCH] * dims))
        assert not known["ood"]
        assert ood["ood"]
        assert not ood["label"].any()


def test_patch_without_removed_pixels_stays_the_same_image():
    data = dataset(2)
    bare = [index for index, share in enumerate(data.counts.foreground) if share == 0]
    assert bare
    # Preparing divides by the largest value of an image, which may have been removed.
    for index in bare:
        known, ood = data[index]["image"], data[data.num_original + index]["image"]
        inside = ~data.padding_at(index).expand(2, -1, -1)
        ratio = ood[inside] / known[inside]
        assert_close(ratio, ratio[0].expand_as(ratio))


@DIMS
@pytest.mark.parametrize("count_padding", [False, True])
def test_counts_agree_with_the_patches(dims, count_padding):
    data = dataset(dims, count_padding=count_padding)
    signs, shares = [], []
    for number, size in enumerate(SIZES[dims]):
        label = load({"dims": dims, "number": number})["label"]
        for start in patch_starts(size, [PATCH] * dims):
            patch = slow_patch(label, start, [PATCH] * dims)
            padding = slow_patch(torch.ones_like(label), start, [PATCH] * dims) == 0
            signs.append(patch_signs(patch, padding=padding, count_padding=count_padding))
            shares.append(float((patch > 0).sum() / (~padding).sum()))
    assert (data.counts.positive, data.counts.negative) == tuple(map(sum, zip(*signs, strict=True)))
    assert data.counts.foreground == pytest.approx(shares)
    assert data.counts.positive < data.counts.negative


def test_padding_counts_as_background_only_when_asked():
    def full(case):
        return load(case) | {"label": torch.ones(1, *SIZES[2][case["number"]])}

    data = PatchDataset([{"number": 0, "dims": 2}], full, [], roi_size=[PATCH] * 2)
    with pytest.raises(LabelError, match="hold no background"):
        _ = data.counts
    data = PatchDataset([{"number": 0, "dims": 2}], full, [], roi_size=[PATCH] * 2, count_padding=True)
    assert (data.counts.positive, data.counts.negative) == (6, 4)


def test_labels_without_foreground_are_named():
    def empty(case):
        return load(case) | {"label": torch.zeros(1, *SIZES[2][case["number"]])}

    data = PatchDataset([{"number": 0, "dims": 2}], empty, [], roi_size=[PATCH] * 2)
    with pytest.raises(LabelError, match=r"labels of all 1 training cases hold no foreground.*foreground_labels"):
        _ = data.num_original


def test_every_image_is_loaded_once():
    seen = []

    def counting(case):
        seen.append(case["number"])
        return load(case)

    data = PatchDataset([{"number": n, "dims": 2} for n in range(3)], counting, [halve], roi_size=[PATCH] * 2)
    assert not seen, "nothing is read before it is needed"
    for _ in range(2):
        _ = [data[index] for index in range(len(data))]
    assert seen == [0, 1, 2]


def test_noise_follows_the_seed_and_differs_from_patch_to_patch():
    first, again, other = (dataset(2, fill="noise", seed=seed) for seed in (1, 1, 2))
    index = first.num_original
    assert torch.equal(first[index]["image"], again[index]["image"])
    assert not torch.equal(first[index]["image"], other[index]["image"])


def test_changes_touch_items_alone():
    data = dataset(2)
    before = data.image_at(0).clone()
    data[0]["image"].zero_()
    assert torch.equal(data.image_at(0), before), "the copy in memory stays"


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_batches_hold_the_patches_in_order(batch_size):
    data = dataset(2)
    indices = list(range(data.num_original, len(data)))
    batches = list(data.batches(indices, batch_size))
    assert_close(torch.cat([batch["image"] for batch in batches]), torch.stack([data[i]["image"] for i in indices]))
    removed = torch.stack([data.label_at(index) != 0 for index in indices])
    assert torch.equal(torch.cat([batch["removed"] for batch in batches]), removed)
    assert removed.any()
    masks = [batch.get("padding", torch.zeros(len(batch["image"]), 1, PATCH, PATCH) > 0) for batch in batches]
    assert torch.equal(torch.cat(masks), torch.stack([data.padding_at(index) for index in indices]))
    assert not any("padding" in batch for batch in dataset(2, count_padding=True).batches(indices, batch_size))


def test_images_without_foreground_are_candidates(tmp_path):
    for name in ("a", "b"):
        nib.save(nib.Nifti1Image(np.full((5, 4), 3.0, dtype=np.float32), np.eye(4)), tmp_path / f"{name}.nii.gz")

    def read(case):
        return case | {"image": torch.as_tensor(nib.load(case["image"]).get_fdata())[None]}

    data = dataset(2, candidate_dir=str(tmp_path), load_candidate=read)
    added = [data.patch(index) for index in range(2 * data.num_original, len(data))]
    assert added == [Patch("candidate", name, start) for name in ("a", "b") for start in ((0, 0), (4, 0))]
    item = data[len(data) - 1]
    assert item["ood"]
    assert not item["label"].any()
    assert item["image"][:, 0].eq(1).all()
    assert item["image"][:, 1:].eq(0).all()
    assert data.num_original == dataset(2).num_original


def test_candidates_whose_label_holds_foreground_are_left_out(tmp_path, caplog):
    caplog.set_level("INFO")
    items = []
    for name, value in (("full", 1), ("empty", 0), ("unlabeled", None)):
        items.append({"image": f"{name}.nii.gz"} | ({} if value is None else {"label": f"{name}_label.nii.gz"}))
        nib.save(nib.Nifti1Image(np.full((4, 4), 3, np.uint8), np.eye(4)), tmp_path / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(np.full((4, 4), value or 0, np.uint8), np.eye(4)), tmp_path / f"{name}_label.nii.gz")
    listing = {"training": items, "modality": {"0": "MR"}, "labels": {"0": "b", "1": "f"}}
    (tmp_path / "dataset.json").write_text(json.dumps(listing))

    def read(case):
        read_parts = {
            key: torch.as_tensor(nib.load(case[key]).get_fdata())[None] for key in ("image", "label") if key in case
        }
        return case | read_parts if "number" not in case else load(case)

    cases = [{"number": 0, "dims": 2, "case": "case_0"}]
    data = PatchDataset(cases, read, [halve], roi_size=[PATCH] * 2, candidate_dir=str(tmp_path), load_candidate=read)
    assert {data.patch(index).case for index in range(2 * data.num_original, len(data))} == {"empty", "unlabeled"}
    assert "candidate_dir: 1 images are left out, since their labels hold foreground" in caplog.messages


@pytest.mark.parametrize("fill", ["zero", "inpaint"])
def test_rim_of_foreground_reaches_into_the_patches_beside_it(fill):
    """One pixel of foreground at the border of the first patch; the second one holds none, but its rim."""
    label = torch.zeros(1, PATCH, 2 * PATCH, dtype=torch.uint8)
    label[0, 2, PATCH - 1] = 1
    image = torch.rand(2, PATCH, 2 * PATCH, generator=torch.Generator().manual_seed(0)) + 1
    data = PatchDataset(
        [{"case": "a"}], lambda case: case | {"image": image, "label": label}, [], roi_size=[PATCH] * 2, fill=fill,
        dilation=1, feather=1,
    )  # fmt: skip
    second = next(n for n in range(len(data)) if data.patch(n) == Patch("emptied", "a", (0, PATCH)))
    expected = (removal_weights(label[0] != 0, dilation=1, feather=1) > 0)[None, :, PATCH:]
    assert 0 < expected.sum() < expected.numel()
    assert torch.equal(data.removed_at(second), expected)
    assert torch.equal((data.image_at(second) != image[..., PATCH:]).any(dim=0, keepdim=True), expected)


def without_foreground(numbers):
    """Loads cases, some of which have an empty label."""
    return lambda case: load(case) | ({"label": load(case)["label"] * 0} if case["number"] in numbers else {})


def test_cases_without_foreground_are_candidates_where_asked_for():
    cases = [{"number": number, "dims": 2, "case": f"case_{number}"} for number in range(3)]
    plain, chosen = (
        PatchDataset(cases, without_foreground([1]), [halve], roi_size=[PATCH] * 2, empty_candidates=empty)
        for empty in (False, True)
    )
    kinds = [[(data.patch(n).kind, data.patch(n).case) for n in range(len(data))] for data in (plain, chosen)]
    assert ("original", "case_1") in kinds[0]
    assert ("candidate", "case_1") not in kinds[0]
    assert {case for kind, case in kinds[1] if kind != "candidate"} == {"case_0", "case_2"}
    assert kinds[1][-1] == ("candidate", "case_1")
    assert [case["number"] for case in chosen.trained] == [0, 2]
    assert_close(
        chosen[len(chosen) - 1]["image"],
        plain[kinds[0].index(("original", "case_1"))]["image"],
    )
    assert chosen.counts.positive_pixels == plain.counts.positive_pixels == 8
    assert chosen.counts.negative_pixels == plain.counts.negative_pixels - 16


def test_all_cases_without_foreground_are_refused():
    data = PatchDataset(
        [{"number": 0, "dims": 2}], without_foreground([0]), [], roi_size=[PATCH] * 2, empty_candidates=True
    )
    with pytest.raises(LabelError, match="hold no foreground"):
        _ = data.counts


@pytest.mark.parametrize("key", ["patient", "region"])
def test_candidates_of_held_out_patients_are_left_out(tmp_path, key, caplog):
    """One of the fold that is tested, one of the training patients, and one whom the data set does not have."""
    affine, persons = np.eye(4), ["a", "b", "c", "d"]
    for name in ("data", "free"):
        (tmp_path / name).mkdir()
        numbers = range(len(persons)) if name == "data" else range(6)
        items = []
        for number in numbers:
            for part in ("image", "label"):
                nib.save(
                    nib.Nifti1Image(np.ones((4, 4), np.float32), affine), tmp_path / name / f"{part}_{number}.nii.gz"
                )
            item = {part: f"{part}_{number}.nii.gz" for part in ("image", "label")}
            items.append(item | ({key: [*persons, "e"][number]} if number < 5 else {}))
        listing = {"training": items, "modality": {"0": "MR"}, "labels": {"0": "b", "1": "f"}}
        (tmp_path / name / "dataset.json").write_text(json.dumps(listing))
    split = CaseSplit(str(tmp_path / "data"), str(tmp_path), val_fraction=0.25, num_folds=4, fold=1)
    named = [str(case[key]) for case in split.part("train")]
    assert len(named) == 2
    folders = [str(tmp_path / "free"), str(tmp_path / "data")]
    data = dataset(2, candidate_dir=folders, load_candidate=lambda case: case, split=split)
    found = [str(case.get(key)) for case in data.candidates]
    assert sorted(found) == sorted([*named, "e", "None", *named])
    assert f"candidate_dir: 1 of 6 images name no {key}, so nobody can tell whether they are of" in caplog.text
    undrawn = CaseSplit(str(tmp_path / "data"), str(tmp_path), val_fraction=0.25)
    assert len(dataset(2, candidate_dir=folders, load_candidate=lambda case: case, split=undrawn).candidates) == 10
    assert (
        "candidate_dir: the lists of cases are set from outside, so nobody can tell which of 10 images" in caplog.text
    )


def test_candidates_of_data_without_patients_are_warned_of(tmp_path, caplog):
    for name in ("data", "free"):
        (tmp_path / name).mkdir()
        items = []
        for number in range(4):
            item = {part: f"{name}_{part}_{number}.nii.gz" for part in ("image", "label")}
            for file in item.values():
                nib.save(nib.Nifti1Image(np.ones((4, 4), np.float32), np.eye(4)), tmp_path / name / file)
            items.append(item)
        listing = {"training": items, "modality": {"0": "MR"}, "labels": {"0": "b", "1": "f"}}
        (tmp_path / name / "dataset.json").write_text(json.dumps(listing))
    split = CaseSplit(str(tmp_path / "data"), str(tmp_path), val_fraction=0.25)
    split.part("train")
    data = dataset(2, candidate_dir=str(tmp_path / "free"), load_candidate=lambda case: case, split=split)
    assert len(data.candidates) == 4
    assert "candidate_dir: 4 of 4 images name no patient or region" in caplog.text


@pytest.mark.parametrize("feather", [1, 9])
def test_mask_of_the_removed_is_of_what_has_changed(feather):
    """The wider rim covers the second patch as a whole, which stays."""
    image, label = torch.rand(2, 4, 16) + 1, torch.zeros(1, 4, 16)
    label[:, 1:3, 4:7] = 1
    emptied, removed = Removal(dilation=1, feather=feather)(image, label, [4, 8], "a")
    assert torch.equal(removed[0], (emptied != image).any(dim=0))
    assert removed[0, :, 8:].any() == (feather == 1)


def test_candidates_need_something_that_loads_them():
    with pytest.raises(ConfigError, match="set load_candidate"):
        dataset(2, candidate_dir="somewhere")


class Known:
    num_original = 10


class TestPatchSampler:
    def test_known_patches_are_drawn_once_each_in_another_order_every_epoch(self):
        sampler, orders = PatchSampler(Known(), seed=3), []
        for epoch in (1, 2):
            sampler.set_epoch(epoch)
            orders.append(list(sampler))
        assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
        assert orders[0] != orders[1]
        assert len(sampler) == 10
        sampler.set_epoch(1)
        assert list(sampler) == orders[0]

    @pytest.mark.parametrize("number", [4, 6, 15])
    def test_epoch_has_the_length_asked_for_and_no_patch_twice_before_all_came(self, number):
        sampler = PatchSampler(Known(), samples_per_epoch=number)
        sampler.choose([11, 12, 13, 25, 36, 47])
        drawn = list(sampler)
        assert len(drawn) == len(sampler) == number
        counts = [drawn.count(index) for index in (11, 12, 13, 25, 36, 47)]
        assert sum(counts) == number
        assert max(counts) - min(counts) <= 1

    def test_ranks_share_the_epoch(self, ranks):
        import common.sampling

        drawn = []
        for rank in range(3):
            ranks(common.sampling, rank, 3)
            sampler = PatchSampler(Known(), seed=1)
            drawn.append(list(sampler))
            assert len(sampler) == len(drawn[-1]) == 4
        everything = [index for part in drawn for index in part]
        assert set(everything) == set(range(10))

    def test_nothing_to_draw_from_is_an_error(self):
        with pytest.raises(NotEnoughCasesError, match="no patch to train on"):
            PatchSampler(Known()).choose([])
