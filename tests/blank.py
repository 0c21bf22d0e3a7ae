"""Imported by what processes are forked from, as the last: pictures are left blank, unless ``warm_python.py`` is asked.

No process looks for garbage in what all of them share.
"""

import gc

from matplotlib.figure import Figure

from tests.pictures import write_blank

Figure.savefig = write_blank
gc.freeze()
