"""Asks MONAI Label's app, in this process, for segmentations by several threads at once, and then one by one.

Run as ``python -m infer_in_threads APP STUDIES MODELS IMAGES THREADS`` in MONAI Label's environment; names are
separated by commas. Its last line is JSON: ``threads`` and ``serial``, each a list of [model, image, answer]. The
server handles one request at a time; batch inference and other users of an app do not.
"""

import hashlib
import json
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def answer(app, model, image):
    """The voxels' digest and all of the response but its timings."""
    import nibabel as nib
    import numpy as np

    result = app.infer({"model": model, "image": image, "device": "cpu", "logging": "WARNING"})
    file = Path(result["file"])
    voxels = np.asarray(nib.load(file).dataobj)
    file.unlink()
    known = {key: value for key, value in result["params"].items() if key != "latencies"}
    return [model, image, known | {"voxels": hashlib.sha256(voxels.tobytes()).hexdigest()}]


def main(app_dir, studies, models, images, threads):
    from monailabel.interfaces.utils.app import app_instance

    app = app_instance(app_dir, studies, {"models": models, "zoo_source": "local", "sam2": "false"})
    logging.disable(logging.CRITICAL)
    jobs = [(model, image) for image in images.split(",") for model in models.split(",")] * 2
    start = threading.Barrier(int(threads))

    def one_of_many(index):
        if index < int(threads):
            start.wait(timeout=60)
        return answer(app, *jobs[index])

    with ThreadPoolExecutor(int(threads)) as pool:
        at_once = list(pool.map(one_of_many, range(len(jobs))))
    sys.stdout.write(json.dumps({"threads": at_once, "serial": [answer(app, *job) for job in jobs]}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
