"""Tables of step times, before and after a change, of operators and of levers, as Markdown."""

from itertools import chain
from pathlib import Path

from tests.benchmarks.levers import bench_levers
from tests.benchmarks.steps import RemoteTrainer, closing_all, medians, realistic, trainers_of

TOP = 6
"""Operators that are named."""


def markdown(head, rows):
    """The lines of a table, each as soon as its row is known."""
    for row in chain((head, ["---"] * len(head)), rows):
        yield f"| {' | '.join(row)} |"


def step_row(bundle, roots, *, repeats=3, **settings):
    """Yields what each trainer of a bundle takes in each checkout, epochs in turn.

    Both train on the patch and the batch of the first checkout.
    """
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
        yield cells


def step_table(bundles, roots, **settings):
    """Seconds of a step and of what comes before it, for the trainers of all bundles."""
    names = ["before, ", "after, "] if len(roots) > 1 else [""]
    head = ["bundle", "trainer", "batch"]
    head += [f"{name}{part}" for name in names for part in ("pipeline, s", "step, s", "pipeline's share")]
    return markdown(head, (row for bundle in bundles for row in step_row(bundle, roots, **settings)))


def operator_rows(bundle, root, **settings):
    """Yields the operators that take most of a step of each trainer of a bundle, and all together."""
    folder = Path(root, "bundles", bundle)
    for block in trainers_of(folder):
        with closing_all([RemoteTrainer(folder, block, **realistic(folder) | settings)]) as (trainer,):
            trainer.epoch()
            operators = trainer.operators()
        calls, total = (sum(column) for column in list(zip(*operators, strict=True))[1:])
        for name, number, seconds in [*operators[:TOP], ("all", calls, total)]:
            yield [bundle, block, f"`{name}`", str(number), f"{1000 * seconds:.0f}", f"{seconds / total:.0%}"]


def operator_table(bundles, root, **settings):
    """The operators that take most of a step, for the trainers of all bundles."""
    head = ["bundle", "trainer", "operator", "calls", "ms", "share"]
    return markdown(head, (row for bundle in bundles for row in operator_rows(bundle, root, **settings)))


def lever_rows(bundle, root, **settings):
    """Yields how many times faster a step of a bundle is with each lever."""
    folder = Path(root, "bundles", bundle)
    base = realistic(folder) | settings
    size = "x".join(map(str, base["roi_size"]))
    for name, ratio in bench_levers(folder, **settings).items():
        yield [bundle, f"{min(base['batch_size'], 4)} x {size}", name, f"{ratio:.2f}"]


def lever_table(bundles, root, **settings):
    """How many times faster a step is with each lever, for all bundles."""
    head = ["bundle", "batch", "lever", "times faster, per voxel"]
    return markdown(head, (row for bundle in bundles for row in lever_rows(bundle, root, **settings)))
