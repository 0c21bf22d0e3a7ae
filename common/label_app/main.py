"""Serves bundles that judge scans as a MONAI Label app: every bundle in its folder, and active learning by OODM.

Copy this folder anywhere, put unpacked bundles into its ``model`` folder and start the server, see ``README.md``.
Nothing is ever downloaded. Only MONAI Label imports this module; it looks for a class whose direct base is
``MONAILabelApp``.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import HTTPException
from monai.transforms import LoadImage
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.transform.writer import write_itk
from monailabel.utils.others.generic import strtobool
from ranking import is_fresh, judge_settled, rank_images, score_record, verdict_stamp
from withholding import OVERRIDE, SWITCH, withholding_text

logger = logging.getLogger(__name__)

_importing = threading.RLock()
"""Held while a bundle is resolved: in a process, all share one import path and one name, ``scripts``, of their code."""


class JudgingTask(BundleInferTask):
    """A bundle's inference, safe to call from several threads.

    To build transforms and inferer, MONAI Label changes ``sys.path`` and forgets the modules named ``scripts``. Two
    threads that do so at once fail, or end up, for good, with the code of the other's bundle.

    Args:
        path: Folder of the bundle.
        conf: Settings of the command line; with ``withhold_ood``, segmentations of scans out of distribution are kept
            back.
    """

    def __init__(self, path: str, conf: dict[str, str]) -> None:
        super().__init__(path, conf)
        self.withholds = bool(strtobool(conf.get(SWITCH, "false")))
        if self.withholds and self.is_valid():
            # What clients offer as a box to tick.
            self._config[OVERRIDE] = False

    def __call__(self, request: dict[str, Any], callbacks: Any = None) -> tuple[Any, Any]:
        """Returns the file of a segmentation and the params of the answer.

        Args:
            request: Request of the client.
            callbacks: Functions of MONAI Label that see what is between two stages. Default none.

        Raises:
            HTTPException: When the segmentation is kept back; clients show its text.
        """
        file, params = super().__call__(request, callbacks)
        text = withholding_text(params, request) if self.withholds and isinstance(file, str) else ""
        if text:
            Path(file).unlink(missing_ok=True)
            raise HTTPException(status_code=422, detail=text)
        return file, params

    def pre_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable[..., Any]]:
        """Returns the bundle's preprocessing."""
        with _importing:
            return super().pre_transforms(data)

    def inferer(self, data: dict[str, Any] | None = None) -> Any:
        """Returns the bundle's inferer."""
        with _importing:
            return super().inferer(data)

    def post_transforms(self, data: dict[str, Any] | None = None) -> Sequence[Callable[..., Any]]:
        """Returns the bundle's postprocessing."""
        with _importing:
            return super().post_transforms(data)

    def _get_network(self, device: str, data: dict[str, Any] | None) -> Any:
        """The network with the weights of now; read once, however many threads ask for it at once."""
        with _importing:
            return super()._get_network(device, data)

    def stamp(self, info: Mapping[str, Any]) -> str:
        """Returns a digest of the files that decide over the verdict on an image.

        Args:
            info: Record of the image in the datastore; it holds its ``path``.
        """
        bundle = Path(self.bundle_path)
        # The manifest names the digests of the bundle's code.
        names = ("models/signature_bank.npz", "models/model_settings.json", "configs/inference.json", "manifest.json")
        return verdict_stamp([self.get_path(), *(bundle / name for name in names)], info["path"])

    def judge(self, image: str, **options: Any) -> Mapping[str, Any]:
        """Returns the verdict on an image file, without writing its segmentation."""
        _, data = self({"image": image, "skip_writer": True, "logging": "WARNING", **options})
        result = data.get("result") or {}
        return result if "oodm" in result else {"reason": "this bundle does not judge scans"}


class OODScoring(ScoringMethod):
    """Keeps the verdict of every model on every image in the datastore; a verdict that is fresh is not computed again.

    Args:
        tasks: Inference of every model, by its name.
    """

    def __init__(self, tasks: Mapping[str, JudgingTask]) -> None:
        super().__init__("out-of-distribution measure (OODM) of every image; higher means more abnormal")
        self.tasks = tasks

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, dict[str, int]]:
        """Returns, for every model, how many images were ``scored``, ``fresh`` already, or ``failed``.

        Args:
            request: Request of the client; it may name one ``model``, all by default, and a ``device``.
            datastore: Datastore of MONAI Label.
        """
        chosen = [_known_model(request, self.tasks)] if request.get("model") else list(self.tasks)
        options = {"device": request["device"]} if request.get("device") else {}
        return {model: self._score_all(model, datastore, options) for model in chosen}

    def _score_all(self, model: str, datastore: Any, options: Mapping[str, Any]) -> dict[str, int]:
        """Scores every image, those that wait for a label first."""
        counts = {"scored": 0, "fresh": 0, "failed": 0}
        for image in _unlabeled_first(datastore):
            info = datastore.get_image_info(image)
            if not info:  # removed since the scoring began
                continue
            if is_fresh(info, model, self.tasks[model].stamp(info)):
                counts["fresh"] += 1
                continue
            record = self._score(model, image, datastore, options)
            counts["scored" if record[f"stamp_{model}"] else "failed"] += 1
            # Scoring runs beside the server: what the server has written meanwhile must not be overwritten.
            datastore.refresh()
            if datastore.get_image_info(image):
                datastore.update_image_info(image, record)
        return counts

    def _score(self, model: str, image: str, datastore: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        """The record of one image; without a stamp, so that it is tried again, if there is no verdict to rely on."""
        task = self.tasks[model]
        try:
            # First of all: this is what fetches an image that is not on this machine yet.
            file = datastore.get_image_uri(image)
            info = datastore.get_image_info(image)
            record = judge_settled(model, lambda: task.judge(file, **options), lambda: task.stamp(info))
        except Exception as error:  # of any kind: an unreadable image must not keep the others from being scored
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            record = score_record(model, {"reason": reason}, stamp="")
        if not record[f"stamp_{model}"]:
            logger.warning("no OODM of image %s by model %s: %s", image, model, record[f"reason_{model}"])
        return record


class MostOODFirst(Strategy):
    """Proposes the unlabeled image that is most unlike the training data; images without a score come last.

    Args:
        tasks: Inference of every model, by its name.
    """

    def __init__(self, tasks: Mapping[str, JudgingTask]) -> None:
        super().__init__("the image most unlike the training data first (by OODM)")
        self.tasks = tasks

    def info(self) -> dict[str, Any]:
        """Returns the description and the settings that a client offers: the model whose scores count."""
        return {**super().info(), "config": {"model": list(self.tasks)}}

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any] | None:
        """Returns the image's ``id``, ``oodm`` and ``is_ood``, the ``model``, and the ``ranking`` of all; or ``None``.

        Args:
            request: Request of the client; it may name the ``model``, by default the first one.
            datastore: Datastore of MONAI Label.
        """
        model = _known_model(request, self.tasks)
        # Scores are written by another process.
        datastore.refresh()
        images = datastore.get_unlabeled_images(request.get("label_tag"), request.get("labels"))
        infos = {image: datastore.get_image_info(image) for image in images}
        stamps = {image: self.tasks[model].stamp(info) for image, info in infos.items()}
        ranking = rank_images(infos, model, stamps)
        return {**ranking[0], "model": model, "ranking": ranking} if ranking else None


class OODApp(MONAILabelApp):
    """Serves every bundle in ``<app>/model``, or those named by ``--conf models a,b``.

    Args:
        app_dir: Folder of the app.
        studies: Folder of images, or address of a DICOMweb server.
        conf: Settings of the command line, by name.

    Raises:
        MONAILabelException: When there is no bundle, or not the one named.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        _load_itk()
        self.bundles = _find_bundles(Path(app_dir).resolve() / "model", conf.get("models", ""))
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="Segmentation that says when not to trust it",
            description="Bundles that judge every scan, and active learning by their verdict",
        )

    def init_infers(self) -> dict[str, JudgingTask]:
        """Returns the inference of every bundle."""
        tasks = {name: JudgingTask(str(bundle), self.conf) for name, bundle in self.bundles.items()}
        return {name: task for name, task in tasks.items() if task.is_valid()}

    def init_trainers(self) -> dict[str, BundleTrainTask]:
        """Returns the training of every bundle that has one."""
        tasks = {name: BundleTrainTask(str(bundle), self.conf) for name, bundle in self.bundles.items()}
        return {name: task for name, task in tasks.items() if task.is_valid()}

    def init_strategies(self) -> dict[str, Strategy]:
        """Returns the ways to choose the next image."""
        return {"most_ood_first": MostOODFirst(self._infers), "random": Random(), "first": First()}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """Returns the ways to score images."""
        return {"oodm": OODScoring(self._infers)}


def _load_itk() -> None:
    """Has ITK load its parts now: it does so when first used, and exchanges Python's path under other threads then."""
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "scan.nii.gz")
        write_itk(np.zeros((2, 2, 2), dtype=np.float32), file, np.eye(4), None, False)
        LoadImage("ITKReader")(file)


def _find_bundles(folder: Path, names: str) -> dict[str, Path]:
    """The bundles in a folder, or those named, separated by commas."""
    found = {path.parents[1].name: path.parents[1] for path in sorted(folder.glob("*/configs/inference.json"))}
    # What ``install --replace`` has kept.
    found = {name: bundle for name, bundle in found.items() if not name.endswith(".old")}
    chosen = [name.strip() for name in names.split(",") if name.strip()] or list(found)
    missing = [name for name in chosen if name not in found]
    if missing or not chosen:
        raise MONAILabelException(
            MONAILabelError.APP_INIT_ERROR,
            f"no bundle {', '.join(missing) or 'at all'} in {folder}; found: {', '.join(found) or 'none'}; unpack an "
            "archive there, so that its configs lie in model/<name>/configs",
        )
    return {name: found[name] for name in chosen}


def _known_model(request: Mapping[str, Any], tasks: Mapping[str, JudgingTask]) -> str:
    """The model a request names, or the first one."""
    model = request.get("model") or next(iter(tasks), None)
    # A client that offers the models as a list may send the list, the chosen one first.
    model = model[0] if isinstance(model, list) else model
    if model not in tasks:
        raise MONAILabelException(
            MONAILabelError.INVALID_INPUT, f"there is no model {model!r}; the models are {', '.join(tasks)}"
        )
    return str(model)


def _unlabeled_first(datastore: Any) -> Iterator[str]:
    """The names of all images."""
    waiting = sorted(datastore.get_unlabeled_images())
    yield from waiting
    yield from sorted(set(datastore.list_images()) - set(waiting))
