"""Imported by what processes are forked from, this leaves their pictures blank, unless ``warm_python.py`` is asked."""

from matplotlib.figure import Figure

from tests.pictures import write_blank

Figure.savefig = write_blank
