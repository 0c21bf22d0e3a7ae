"""Tables of step times, before and after a change, of operators and of levers, as Markdown."""

from pathlib import Path

from tests.benchmarks.levers import bench_levers
from tests.benchmarks.steps import RemoteTrainer, closing_all, medians, realistic, trainers_of

TOP = 6
"""Operators that are named."""


def markdown(head, rows):
    """The lines of a table."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def step_row(bundle, roots, *, repeats=3, **settings):
    """What a bundle's trainers take in each checkout, epochs in turn: a row for each trainer.

    Both train on the patch and the batch of the first checkout.
    """
    rows = []
    folders = [Path(root, "bundles", bundle) for root in roots]
    given = realistic(folders[0]) | settings
    for block in trainers_of(folders[0]):
        with closing_all([RemoteTrainer(folder, block, **given) for folder in folders]) as trainers:
            found = [[] for _ in trainers]
            for number in range(repeats + 1):
                for steps, trainer in zip(found, trainers, strict=True):
                    # The first epoch is a warm-up.
                    steps += trainer.epoch() if number else trainer.epoch()[:0]
        size = "x".join(map(str, given["roi_size"]))
        cells = [bundle, block, f"{given['batch_size']} x {size}"]
        for seconds in map(medians, found):
            cells += [f"{seconds.pipeline:.3f}", f"{seconds.step:.3f}", f"{seconds.share:.1%}"]
        rows.append(cells)
    return rows


def step_table(bundles, roots, **settings):
    """Seconds of a step and of what comes before it, for the trainers of all bundles."""
    names = ["before, ", "after, "] if len(roots) > 1 else [""]
    head = ["bundle", "trainer", "batch"]
    head += [f"{name}{part}" for name in names for part in ("pipeline, s", "step, s", "pipeline's share")]
    return markdown(head, [row for bundle in bundles for row in step_row(bundle, roots, **settings)])


def operator_table(bundles, root, **settings):
    """The operators that take most of a step, for the trainers of all bundles."""
    rows = []
    for bundle in bundles:
        folder = Path(root, "bundles", bundle)
        for block in trainers_of(folder):
            with closing_all([RemoteTrainer(folder, block, **realistic(folder) | settings)]) as (trainer,):
                trainer.epoch()
                operators = trainer.operators()
            total = sum(seconds for _, _, seconds in operators)
            calls = sum(number for _, number, _ in operators)
            for name, number, seconds in operators[:TOP]:
                rows.append(
                    [bundle, block, f"`{name}`", str(number), f"{1000 * seconds:.0f}", f"{seconds / total:.0%}"]
                )
            rows.append([bundle, block, f"all {len(operators)}", str(calls), f"{1000 * total:.0f}", "100%"])
    return markdown(["bundle", "trainer", "operator", "calls", "ms", "share"], rows)


def lever_table(bundles, root, **settings):
    """How many times faster a step is with each lever, for all bundles."""
    rows = []
    for bundle in bundles:
        folder = Path(root, "bundles", bundle)
        base = realistic(folder) | settings
        ratios = bench_levers(folder, **settings)
        size = "x".join(map(str, base["roi_size"]))
        rows += [
            [bundle, f"{min(base['batch_size'], 4)} x {size}", name, f"{ratio:.2f}"] for name, ratio in ratios.items()
        ]
    return markdown(["bundle", "batch", "lever", "times faster, per voxel"], rows)
