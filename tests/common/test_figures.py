import inspect
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure

from common import figures
from common.figures import (
    draw_bars,
    draw_curves,
    draw_gallery,
    draw_history,
    draw_learning_curves,
    draw_maps,
    draw_named_points,
    draw_reliability,
    draw_roc,
    draw_scores,
    draw_side_by_side,
    draw_signatures,
    draw_table,
    draw_uncertainty,
)
from common.figures.style import OUTLINES, SERIES, area_color, log_ticks, outline_look, rgb

RNG = np.random.default_rng(0)
DISK = (np.hypot(*np.mgrid[-8:8, -6:6]) < 4).astype(float)
SLICE = (RNG.random((16, 12)), DISK, "a scan\nin distribution")
EPOCHS = [{"epoch": 1, "train_loss": 1.0}, {"epoch": 2, "train_loss": 0.5, "dice": 0.7}]
SIGNATURES = {"training": RNG.random((5, 4)), "far": RNG.random((1, 4))}
CURVES = {"far": ([0.0, 0.0, 1.0], [0.0, 1.0, 1.0], 1.0), "near": ([0.0, 1.0], [0.0, 1.0], 0.5)}
BINS = np.array([[4.0, 0.0, 2.0], [0.4, 0.0, 1.8], [1.0, 0.0, 2.0]])
LINES = [["mean DSC", 0.5, None, ""], ["a detector", 0.1, 0.99, float("nan")]]

PANELS = {"network A": {"class 1": [(1, 0.2), (2, 0.4)], "class 2": [(2, 0.9)]}, "network B": {"class 1": [(1, 1.0)]}}
DOSES = {
    "dsc": {"a": [(0, 0.2, 0.1, 0.3), (2, 0.4, 0.4, 0.4)], "b": [(2, 0.9, 0.8, 1.0)]},
    "ap": {"a": [(1, 0.3, 0.3, 0.3)]},
}
NAMES = ["1 (liver)", "2 (spleen)", "3"]
BARS = {"this run": [0.5, 0.8], "CPS": [float("nan"), 0.7]}

FIGURES = {
    "bars": lambda path: draw_bars(["1\n0.1%", "2\n5%"], BARS, path, xlabel="class", ylabel="Dice"),
    "curves": lambda path: draw_curves(PANELS, path, xlabel="epoch", ylabel="weight"),
    "learning curves": lambda path: draw_learning_curves(DOSES, path, xlabel="labeled"),
    "learning curves, a place marked": lambda path: draw_learning_curves(DOSES, path, xlabel="ratio", mark=0.65),
    "gallery": lambda path: draw_gallery([SLICE] * 2, path),
    "gallery of one": lambda path: draw_gallery([SLICE], path, columns=1),
    "gallery without segmentation": lambda path: draw_gallery([(SLICE[0], 0 * DISK, "none"), SLICE], path, columns=2),
    "history": lambda path: draw_history(EPOCHS, "dice", path),
    "history without validation": lambda path: draw_history(EPOCHS[:1], "", path),
    "signatures": lambda path: draw_signatures(SIGNATURES, path),
    "scores": lambda path: draw_scores({"training": [0.01, 0.02], "far": [0.5]}, 0.03, path),
    "scores, one of zero": lambda path: draw_scores({"training": [0.0, 0.02]}, 0.03, path),
    "scores, all above the threshold": lambda path: draw_scores({"far": [2.0]}, 0.03, path),
    "roc": lambda path: draw_roc(CURVES, path),
    "reliability, one bin empty": lambda path: draw_reliability(BINS, path),
    "table": lambda path: draw_table(["detector", "far", "near", "worst"], LINES, path),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_figure_is_a_readable_png(draw, tmp_path, read_picture):
    draw(tmp_path / "new" / "figure.png")
    read_picture(tmp_path / "new" / "figure.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["figure.png"]


def test_same_content_gives_the_same_figure(tmp_path, read_picture):
    for name in ("a.png", "b.png"):
        draw_signatures(SIGNATURES, tmp_path / name)
    assert np.array_equal(read_picture(tmp_path / "a.png"), read_picture(tmp_path / "b.png"))


def test_gallery_grows_by_rows(tmp_path, read_picture):
    sizes = []
    for number in (1, 2, 3):
        draw_gallery([SLICE] * number, tmp_path / "gallery.png", columns=2)
        sizes.append(read_picture(tmp_path / "gallery.png").shape[:2])
    assert sizes[0] == sizes[1]
    assert sizes[2] == (2 * sizes[0][0], sizes[0][1])


def test_titles_of_broad_pictures_are_not_cut(tmp_path, read_picture):
    broad = (RNG.random((32, 18)), np.ones((32, 18)), "\n".join(["OUT OF DISTRIBUTION"] * 4))
    draw_gallery([broad] * 6, tmp_path / "gallery.png", columns=3, names={1: "tool"})
    assert read_picture(tmp_path / "gallery.png")[0].min() > 200


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, in place of their files."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: figures.append((figure, Path(path).touch())))
    return lambda: figures.pop()[0]


WIDE = (np.hypot(*np.mgrid[-8:8, -6:6]) < 7).astype(float)


def test_names_of_many_points_do_not_touch_however_close_the_points(tmp_path, drawn):
    points = {f"a_detector_of_a_long_name_{number:02}": (0.01 + number / 1e9, 0.8) for number in range(30)}
    points["the_best"] = (0.2, 0.9)
    draw_named_points(points, tmp_path / "ranks.png", first="cost", second="gain", log_first=True)
    figure = drawn()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(low.y1 <= high.y0 for low, high in itertools.pairwise(boxes))
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert sorted(names) == sorted(points)
    assert names[-1] == "the_best", "the best is at the top"
    for place, axis in enumerate(figure.axes):
        assert axis.lines[0].get_xdata().tolist() == [points[name][place] for name in names]


@pytest.mark.parametrize(
    ("segmentation", "classes", "legend"),
    [
        (DISK, [1], []),
        (0 * DISK, [], []),
        (2 * WIDE, [2], []),
        (WIDE + DISK, [1, 2], ["class 1", "class 2"]),
        (8 * WIDE - 7 * DISK, [1, 8], ["class 1", "class 8"]),
        (DISK + 1, [1, 2], ["class 1", "class 2"]),
    ],
)
def test_every_class_has_an_outline_of_its_own(tmp_path, drawn, segmentation, classes, legend):
    draw_gallery([(SLICE[0], segmentation, "")], tmp_path / "gallery.png", columns=1)
    figure = drawn()
    outlines = [item for item in figure.axes[0].collections if isinstance(item, ContourSet)]
    assert [to_hex(item.get_edgecolor()[0]) for item in outlines] == [outline_look(number)[0] for number in classes]
    dashed = [item.get_linestyle()[0][1] is not None for item in outlines]
    assert dashed == [number > len(OUTLINES) for number in classes]
    assert [text.get_text() for box in figure.legends for text in box.get_texts()] == legend
    for item, number in zip(outlines, classes, strict=True):
        columns, rows = item.get_paths()[0].vertices.T.round().astype(int)
        assert set(segmentation[columns, rows]) == {number}, "each outline lies inside of its class"


def test_legend_has_the_names_of_the_classes_that_are_shown(tmp_path, drawn):
    draw_gallery([(SLICE[0], 2 * DISK, "")], tmp_path / "gallery.png", names={1: "liver", 2: "spleen"})
    (legend,) = drawn().legends
    assert [text.get_text() for text in legend.get_texts()] == ["spleen"]


def test_bars_of_scores_lie_inside_of_the_axes_and_counts_are_whole(tmp_path, drawn):
    draw_scores({"training": [0.01, 0.02, 0.0299], "far": [0.5]}, 0.03, tmp_path / "oodm.png")
    axis = drawn().axes[0]
    (low, high), (floor, ceiling) = axis.get_xlim(), axis.get_ylim()
    bars = [bar.get_path().vertices for bar in axis.patches]
    found = np.concatenate(bars)[np.isfinite(np.concatenate(bars)).all(axis=1)]
    assert 0.03 in np.concatenate(bars)[:, 0], "no bar lies on both sides of the threshold"
    assert low < found[:, 0].min()
    assert found[:, 0].max() < high
    assert (floor, ceiling >= found[:, 1].max() > 0) == (0, True)
    assert all(place == round(place) for place in axis.get_yticks())
    assert len([place for place in axis.get_yticks() if place <= ceiling]) >= 2


def test_signatures_are_drawn_layer_by_layer_under_their_names(tmp_path, drawn):
    layers = {"network_a.encoders.0": 3, "output": 1}
    draw_signatures(SIGNATURES, tmp_path / "signatures.png", layers=layers)
    axis = drawn().axes[0]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["network_a.\nencoders.0", "output"]
    lines = [line for line in axis.lines if len(line.get_xdata()) in (1, 3)]
    assert [len(line.get_xdata()) for line in lines] == [3, 1] * 2
    np.testing.assert_allclose(lines[0].get_ydata(), SIGNATURES["training"].mean(axis=0)[:3])
    assert all(0 < place < 1 for place in lines[0].get_xdata())
    assert lines[1].get_xdata().tolist() == [1.5]


def test_reconstruction_has_the_scale_of_its_image(tmp_path, drawn):
    picture = SLICE[0].astype(np.float32)
    draw_maps([("a", picture, DISK, picture - 0.5, picture)], tmp_path / "maps.png")
    shown = [axis.images[0].get_clim() for axis in drawn().axes[:2]]
    assert shown[0] == shown[1]


def test_images_are_drawn_with_the_first_axis_to_the_right_and_the_second_up(tmp_path, read_picture):
    image = np.zeros((20, 20))
    image[15:, 15:] = 1
    draw_gallery([(image, 0 * image, ".")], tmp_path / "gallery.png", columns=1)
    pixels = read_picture(tmp_path / "gallery.png").min(axis=2)
    rows, columns = np.nonzero(pixels < 50)
    box = pixels[rows.min() : rows.max(), columns.min() : columns.max()]
    top, right = box.shape[0] // 5, box.shape[1] - box.shape[1] // 5
    assert box[:top, right:].mean() > 200
    assert box[-top:, right:].mean() < 50
    assert box[-top:, : box.shape[1] // 5].mean() < 50


@pytest.mark.parametrize(
    "draw",
    [
        lambda path: draw_history([{"train_loss": 1.0}], "dice", path),
        lambda path: draw_table(["detector", "far"], [["a", 0.5], ["b", 0.5, 0.6]], path),
        lambda path: draw_reliability(np.ones((2, 3)), path),
    ],
)
def test_content_that_cannot_be_drawn_is_a_warning_and_leaves_nothing_behind(draw, tmp_path, caplog):
    draw(tmp_path / "figure.png")
    assert list(tmp_path.iterdir()) == []
    assert [record.getMessage().split(" could")[0] for record in caplog.records] == ["figure.png"]


def test_figure_that_cannot_be_written_is_named(tmp_path, caplog):
    (tmp_path / "file").touch()
    draw_roc(CURVES, tmp_path / "file" / "roc.png")
    (tmp_path / "taken.png").mkdir()
    draw_roc(CURVES, tmp_path / "taken.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken.png"]
    for record, name in zip(caplog.records, ["roc.png", "taken.png"], strict=True):
        assert re.match(rf"{name} could not be made \(cannot write .*{name}", record.getMessage())


def test_every_figure_is_spared(tmp_path, caplog, monkeypatch):
    """Whatever is handed over, no function that draws may stop a run."""
    functions = [getattr(figures, name) for name in figures.__all__]
    for draw in functions:
        needed = [p for p in inspect.signature(draw).parameters.values() if p.default is p.empty and p.name != "path"]
        draw(**{parameter.name: object() for parameter in needed}, path=tmp_path / f"{draw.__name__}.png")
    assert [record.getMessage().split(".png")[0] for record in caplog.records] == [d.__name__ for d in functions]
    assert list(tmp_path.iterdir()) == []


def pixels_of(picture, color):
    """The number of pixels in a color."""
    return int((picture[..., :3] == rgb(color)).all(axis=-1).sum())


def test_one_epoch_is_drawn(tmp_path, read_picture):
    draw_history([{"epoch": 1, "train_loss": 1.0, "dice": 0.4}], "dice", tmp_path / "one.png")
    draw_history([{"epoch": 1}], "dice", tmp_path / "none.png")
    assert pixels_of(read_picture(tmp_path / "one.png"), SERIES[0]) > 10
    assert pixels_of(read_picture(tmp_path / "none.png"), SERIES[0]) == 0


@pytest.mark.parametrize("low", [1e-6, 0.0021, 0.7, 3.0])
@pytest.mark.parametrize("span", [1.3, 2.0, 7.0, 300.0, 1e9])
def test_numbers_of_a_logarithmic_axis_are_round_and_do_not_touch(low, span):
    places = log_ticks(low, low * span)
    assert places == sorted(set(places))
    assert len(places) <= 7
    assert all(low <= place <= low * span for place in places)
    assert len(places) >= (2 if span >= 2 else 0)
    assert all(len(f"{place:e}".split("e")[0].rstrip("0")) <= 3 for place in places), "at most 1.5"


def test_classes_have_their_colors_and_names_wherever_they_are_shown(tmp_path, read_picture):
    picture, truth = SLICE[0].astype(np.float32), DISK.astype(np.float32)
    sizes = {}
    for name, classes in {"named": NAMES, "unnamed": []}.items():
        draw_side_by_side([("a", picture, [truth, 0 * truth])], ("truth", "one"), classes, tmp_path / f"{name}.png")
        found = read_picture(tmp_path / f"{name}.png")
        sizes[name] = pixels_of(found, area_color(1))
        assert pixels_of(found, area_color(2)) == 0, "a class that no map shows is not in the legend"
    assert sizes["named"] > 100
    assert sizes["unnamed"] > 100


def test_maps_of_scores_have_a_bar(tmp_path, read_picture):
    picture = SLICE[0].astype(np.float32)
    row = ("patient_" * 20, picture, DISK.astype(np.float32), picture, np.ones_like(picture))
    draw_maps([row], tmp_path / "maps.png")
    brightest = rgb("#fcffa4")
    area = (read_picture(tmp_path / "maps.png")[..., :3] == brightest).all(axis=-1)
    assert area[:, -area.shape[1] // 8 :].any(), "the end of the bar, right of the map"


def test_errors_are_outlined_where_networks_are_unsure(tmp_path, read_picture):
    picture, truth = SLICE[0].astype(np.float32), DISK.astype(np.float32)
    networks = {"wrong": truth, "right": 0 * truth}
    for name, wrong in networks.items():
        row = ("a", picture, 0 * truth, [("one", 0 * truth, wrong), ("two", truth, wrong)])
        draw_uncertainty([row], tmp_path / f"{name}.png")
    found = {name: read_picture(tmp_path / f"{name}.png") for name in networks}
    bright = (found["right"][..., :2] > 240).all(axis=-1) & (found["right"][..., 2] < 180)
    assert bright[:, : -bright.shape[1] // 8].sum() > 100, "as unsure as can be"
    assert pixels_of(found["wrong"], OUTLINES[2]) > 20
    assert pixels_of(found["right"], OUTLINES[2]) == 0


@pytest.mark.parametrize("colors", [False, True])
def test_pictures_stand_side_by_side(tmp_path, read_picture, colors):
    rng = np.random.default_rng(0)
    picture = rng.random((20, 30, 3) if colors else (20, 30), dtype=np.float32)
    maps = [rng.integers(0, 4, (20, 30)).astype(np.float32) for _ in range(3)]
    draw_side_by_side([("a", picture, maps), ("b", picture, maps)], ("truth", "one", "two"), NAMES, tmp_path / "x.png")
    wide = read_picture(tmp_path / "x.png")
    draw_side_by_side([("a", picture, maps[:1])], ("truth",), NAMES, tmp_path / "y.png")
    narrow = read_picture(tmp_path / "y.png")
    assert wide.shape[0] > 1.5 * narrow.shape[0]
    assert wide.shape[1] > 1.5 * narrow.shape[1]


def test_color_picture_is_drawn_in_its_colors(tmp_path, read_picture):
    red = np.zeros((16, 16, 3), dtype=np.float32)
    red[..., 0] = 1
    draw_gallery([(red, np.zeros((16, 16), dtype=np.float32), "red")], tmp_path / "x.png", columns=1)
    pixels = read_picture(tmp_path / "x.png")
    assert (pixels == (255, 0, 0)).all(axis=-1).mean() > 0.3
