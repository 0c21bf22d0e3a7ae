"""Which tests stay together on one process, and which start first.

Fixtures of a whole session, such as the training that tests of one bundle share, are made once in each process. So the
tests of a bundle stay together, whatever file they are in. The marks of ``pytest-xdist`` cannot say so: its version 3.8
writes a group into ``Item._nodeid``, which pytest 9.2 does not read.
"""

from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

BUNDLES = sorted(path.parent.name for path in (Path(__file__).resolve().parents[1] / "bundles").glob("*/configs"))
LONG = ("tests/bundles/", "tests/package/")
"""Folders whose groups take long and start first, so that the short ones fill what is left at the end."""


def group_of(nodeid):
    """The name of what a test stays together with: its bundle, the archives, or else its file."""
    file = nodeid.partition("::")[0]
    if file.startswith("tests/bundles/"):
        return next((bundle for bundle in BUNDLES if bundle in nodeid), file)
    if file.startswith("tests/package/"):
        return "archives"
    return file


def order(nodeid):
    """Sorts the tests of long groups before the others."""
    return not nodeid.startswith(LONG)


class GroupScheduling(LoadScopeScheduling):
    """Gives whole groups to processes, in the order in which they were collected."""

    def __init__(self, config, log=None):
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid):
        return group_of(nodeid)
