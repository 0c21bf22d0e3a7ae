"""Names of cases become folders of the results: none leads elsewhere, and no two are one folder anywhere."""

import unicodedata

import pytest

from common.data.cases import case_name
from common.data.folders import file_names, unique_names
from common.data.names import MAX_BYTES, folded, free_name, safe_name

ORDINARY = [
    "brain_001", "x.y", "scan 7", "a-b+c=d", "=1+1", "-5", "(copy) [2] {x}", "Müller", "Mu\u0308ller",
    "脳", "конь", "a" * MAX_BYTES, "é" * (MAX_BYTES // 2), "console", "com", "com10", "aux_1", "ood_report", "json",
]  # fmt: skip
ODD = [
    "", ".", "..", "...", " ", ". .", ".hidden", "dot.", "space ", " space", "\u3000",
    "CON", "con", "Nul", "aux.1", "PRN .x", "COM1", "lpt9", "com\u00b9", "CONIN$", "CONOUT$", "clock$",
    *[f"a{letter}b" for letter in '<>:"/\\|?*\n\r\t\0\x1b\x7f\x85\u2028\u202e\u200b\u2066\ud800\udcfc\ufeff\ue000'],
    "../../etc/passwd", "..\\up", "/absolute", "C:", "a" * (MAX_BYTES + 1), "é" * MAX_BYTES, "a" * 5000,
    "ood_report.csv", "OOD_REPORT.JSON", "gallery.png", "dicom_series.json", "skipped_files.json", "metrics.json",
    "report.html", "checkpoint.pt", "signature_bank.npz", "phantoms", "Models",
]  # fmt: skip


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_names_stay(name):
    assert safe_name(name) == name


@pytest.mark.parametrize("name", ODD, ids=ascii)
@pytest.mark.tried(
    "Names",
    "`..nii.gz`, `.nii.gz`, names of devices, control characters, 5,000 letters",
    "The case gets a safe name; the same name always the same one.",
)
def test_odd_names_become_safe_ones(name):
    safe = safe_name(name)
    assert safe != name
    assert safe == safe_name(name)
    assert safe_name(safe) == safe, "a safe name is an ordinary one"
    assert 0 < len(safe.encode()) <= MAX_BYTES
    assert safe.isprintable()
    assert not set(safe) & set('<>:"/\\|?*')
    assert safe.strip(" .") == safe
    assert not safe.lower().endswith((".csv", ".json", ".png", ".pt", ".npz"))


def test_odd_names_stay_apart():
    safe = [safe_name(name) for name in ODD]
    # Of names that differ in case alone, either stays what it is but for its digest.
    assert len({folded(name) for name in safe}) == len(set(ODD))


@pytest.mark.parametrize(
    ("file", "name"),
    [("..nii.gz", "scan_"), ("...nii.gz", "scan_"), (".nii.gz", "scan_"), ("M\udcfcller.nii.gz", "M_ller_")],
)
def test_files_named_after_nothing_or_in_another_encoding_have_a_name(file, name):
    assert case_name(f"/data/{file}").startswith(name)
    assert len(case_name(file)) == len(name) + 8


@pytest.mark.parametrize(
    ("names", "unique"),
    [
        (["a", "A"], ["a", "A_2"]),
        (["straße", "STRASSE"], ["straße", "STRASSE_2"]),
        ([unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD")], ["Müller", "Mu\u0308ller_2"]),
        (["\ufb01x", "fix"], ["\ufb01x", "fix_2"]),
        (["a" * MAX_BYTES] * 2, ["a" * MAX_BYTES, "a" * (MAX_BYTES - 2) + "_2"]),
        (["é" * (MAX_BYTES // 2)] * 2, ["é" * (MAX_BYTES // 2), "é" * (MAX_BYTES // 2 - 1) + "_2"]),
    ],
)
@pytest.mark.tried(
    "Names",
    "Names that differ in case or in the form of accents alone",
    "Every case has a folder of its own.",
)
def test_names_that_some_file_system_takes_for_one_are_told_apart(names, unique):
    assert [case["case"] for case in unique_names([{"case": name} for name in names])] == unique
    assert all(len(name.encode()) <= MAX_BYTES for name in unique)


@pytest.mark.tried(
    "Names",
    "`x.nii` beside `x.nii.gz` and `X.mha`, one of which is then removed",
    "Each gets a digest of its own file name; no name goes over to another file.",
)
def test_files_of_equal_names_are_named_by_themselves():
    names = file_names(["/in/X.mha", "/in/x.nii", "/in/x.nii.gz", "/in/y.nii.gz"])
    assert [name[:2] for name in names] == ["X_", "x_", "x_", "y"]
    assert len({folded(name) for name in names}) == 4
    assert [len(name) for name in names] == [10, 10, 10, 1]
    assert file_names(["/in/x.nii", "/in/x.nii.gz"]) == names[1:3]
    assert file_names(["/elsewhere/x.nii.gz", "/elsewhere/X.mha"]) == [names[2], names[0]]
    assert file_names(["/in/x.nii.gz"]) == ["x"]


def test_taken_names_are_remembered_as_a_file_system_compares_them():
    taken = {"pooled"}
    assert [free_name(name, taken) for name in ("Pooled", "B", "b")] == ["Pooled_2", "B", "b_2"]
