"""Whatever the header and the bytes of a NIfTI file hold: it is segmented in its place, or refused in one line."""

import numpy as np
import pytest
from hypothesis import given

from tests.fuzzing.edits import whole_runs
from tests.fuzzing.nifti import SCANS

RUNS = whole_runs(20)


@RUNS
@given(scans=SCANS)
@pytest.mark.tried(
    "Anything at random",
    "Any field of a NIfTI header, extensions, damaged and compressed bytes",
    "Segmented in the place that nibabel reads, or a row with the reason.",
)
def test_any_header(segment, put_good, reference, assert_good, scan_array, place, scans):
    files = {f"scan_{number:02}": scan for number, scan in enumerate(scans)}

    def fill(folder):
        put_good(folder)
        for name, scan in files.items():
            (folder / f"{name}{scan.ending}").write_bytes(scan.content(scan_array(9)))

    results = segment(fill)
    assert_good(results)
    assert results.rows.keys() == {*files, *reference}
    for name, mask in results.masks.items():
        (file,) = results.folder.glob(f"{name}.*")
        shape, affine = place(mask)
        assert shape == place(file)[0]
        np.testing.assert_allclose(affine, place(file)[1], rtol=1e-5, atol=1e-4)
