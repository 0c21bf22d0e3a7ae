"""Lists labeled cases and splits them by patient.

A case is a dictionary with ``image`` and ``label`` (paths), ``case`` (its name) and ``task`` (the data set it belongs
to). Where a listing gives them, ``patient``, ``region`` (what a tile was cut from), ``slice`` (its number) and
``modality`` come with it. So do ``classes`` (accepted label values), ``listed`` (label values that it is said to show)
and ``phase`` (of an operation), and ``patient_images`` (paths of all images of the patient in the listing). ``refused``
tells why an item of a listing cannot be loaded. No key starts with ``image_`` or ``label_``: MONAI 1.6.1's ``Spacingd``
takes such keys for metadata.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import MissingDataError
from ..phantoms.volumes import PHANTOM_TASKS, phantom_dataset
from .endoscopy import endoscopy_cases, is_endoscopy
from .names import free_name, safe_name

logger = logging.getLogger(__name__)

Case = dict[str, Any]
Folders = str | Sequence[str]

SECTIONS = ("training", "test")
"""Lists of a ``dataset.json`` that may hold images."""

PERSONS = ("operation", "patient", "video")
"""Keys of an item that tell whom it shows; the first that there is. Who tells operations apart splits by them."""

ITEMS = "the path of a file, or {'image': path, 'label': path}"
"""What an item of a listing may be, in words."""


def file_stem(path: str | Path) -> str:
    """Returns the file name without ``.nii.gz`` or any other suffix."""
    name = Path(path).name
    name = name[:-3] if name.lower().endswith(".gz") else name
    return name.rsplit(".", 1)[0]


def case_name(path: str | Path) -> str:
    """Returns the name of the case of a file: that without its suffix, made safe as :func:`safe_name` does."""
    return safe_name(file_stem(path))


def task_name(folder: str | Path) -> str:
    """Returns what the data set of a folder is called: after the folder, made safe as :func:`safe_name` does."""
    return safe_name(Path(folder).resolve().name)


def read_listing(path: str | Path) -> dict[str, Any]:
    """Returns the content of a ``dataset.json``.

    Args:
        path: Path of the ``dataset.json``.

    Raises:
        MissingDataError: When it cannot be read, is no JSON, is nested too deeply, or holds no object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingDataError(
            f"{path} cannot be read ({error.strerror}); make it readable, or copy the data set again"
        ) from error
    except RecursionError as error:
        raise _no_listing(path, "brackets nested too deeply") from error
    except UnicodeDecodeError as error:
        raise _no_listing(path, "its text is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise _no_listing(path, f"no JSON at line {error.lineno}, column {error.colno}") from error
    except ValueError as error:
        raise _no_listing(path, "it holds a number of too many digits") from error
    if not isinstance(content, dict):
        raise _no_listing(path, f"it holds a {type(content).__name__}")
    return content


def _no_listing(path: str | Path, reason: str) -> MissingDataError:
    """The error for a file that is no ``dataset.json``."""
    return MissingDataError(
        f"{path} is no Decathlon listing ({reason}); it needs a list 'training' of pairs 'image' and 'label', and "
        "'labels' and 'modality' as {number: name}"
    )


def read_modality(description: dict[str, Any]) -> str | None:
    """Returns ``CT``, ``MR`` or ``RGB`` from the first entry of ``modality`` in a ``dataset.json``, if it says so."""
    text = str(description.get("modality", {}).get("0", "")).upper()
    return next((name for name in ("CT", "MR", "RGB") if text.startswith(name)), None)


def class_names(case: Mapping[str, Any]) -> dict[int, str]:
    """Returns label value -> name from the ``dataset.json`` above a case's label; empty where there is none."""
    listings = [folder / "dataset.json" for folder in Path(case["label"]).parents[:3]]
    for listing in filter(Path.is_file, listings):
        labels = read_listing(listing).get("labels", {})
        return {int(value): str(name) for value, name in labels.items()}
    return {}


def class_name(
    cases: Iterable[Mapping[str, Any]], index: int, foreground_labels: Mapping[str, Sequence[int]] | None = None
) -> str:
    """Returns the number of a class of a softmax network, with its name where a data set of the cases tells it.

    Args:
        cases: Cases whose data sets may tell the name, see :func:`find_class_name`.
        index: Index of the class, 0 for background.
        foreground_labels: Data set -> label values of the classes that count, in order. With ``None``, the default,
            label values are class indices.
    """
    name = find_class_name(cases, index, foreground_labels)
    return f"{index} ({name})" if name else str(index)


def find_class_name(
    cases: Iterable[Mapping[str, Any]], index: int, foreground_labels: Mapping[str, Sequence[int]] | None = None
) -> str:
    """Returns the name of a class of a softmax network, empty where no data set of the cases tells it.

    Args:
        cases: Cases whose data sets may tell the name; those without a label are passed over.
        index: Index of the class, 0 for background.
        foreground_labels: Data set -> label values of the classes that count, in order. With ``None``, the default,
            label values are class indices.
    """
    seen: set[str] = set()
    for case in cases:
        task = str(case.get("task", ""))
        if "label" not in case or task in seen:
            continue
        seen.add(task)
        values = (foreground_labels or {}).get(task)
        value = index if values is None else dict(enumerate(values, start=1)).get(index, -1)
        name = class_names(case).get(value)
        if name:
            return name
    return ""


def decathlon_cases(folder: str | Path) -> list[Case]:
    """Returns the labeled cases of a folder in the layout of the Medical Segmentation Decathlon.

    Args:
        folder: Folder that holds ``dataset.json`` with a list ``training`` of images and labels.

    Raises:
        MissingDataError: When the folder, its ``dataset.json``, its list or a file is missing, or not readable.
    """
    cases = [case for case in decathlon_scans(folder, sections=("training",)) if "label" in case]
    if not cases:
        raise MissingDataError(f"{folder}/dataset.json lists no labeled case; its list 'training' needs labels")
    return cases


def decathlon_scans(folder: str | Path, *, sections: Sequence[str] = SECTIONS, complete: bool = True) -> list[Case]:
    """Returns the cases of a Decathlon folder, or of videos in the layout of CholecSeg8k, labeled or not.

    Args:
        folder: Folder that holds ``dataset.json``, or a folder for each video, see :func:`endoscopy_cases`.
        sections: Names of the lists of ``dataset.json`` that are read, where they exist. ``training`` and ``test`` by
            default.
        complete: Whether every item must be one that is accepted, and every listed file must exist; true by default.
            With false, any other is a case that fails when it is loaded: a refused item is one with ``refused``, the
            reason. So the other cases of an inference or evaluation go on.

    Raises:
        MissingDataError: When the folder, its ``dataset.json``, its lists or a file is missing, or not readable, or
            when an item is refused.
    """
    root = Path(folder)
    if is_endoscopy(root):
        return endoscopy_cases(root)
    listing = root / "dataset.json"
    if not listing.is_file():
        reason = "holds no dataset.json" if root.is_dir() else "is no folder" if root.exists() else "does not exist"
        raise MissingDataError(
            f"dataset_dir {root} {reason}; expected is a Decathlon folder with dataset.json, imagesTr and labelsTr"
        )
    description = read_listing(listing)
    common = _describe_all(description, listing)
    found = {section: _section_cases(description, section, listing, common) for section in sections}
    cases = [case for section in sections for case in found[section]]
    others = [name for name in SECTIONS if name not in found and isinstance(description.get(name), list)]
    _share_images(cases, [case for name in others for case in _section_cases(description, name, listing, common)])
    refused = next((case["refused"] for case in cases if complete and "refused" in case), None)
    if refused:
        raise MissingDataError(refused)
    if not cases:
        raise MissingDataError(f"{listing} lists no case; its list {' or '.join(map(repr, sections))} is empty")
    files = [case[key] for case in cases for key in ("image", "label") if key in case]
    missing = [file for file in files if complete and not os.path.isfile(file)]
    if missing:
        raise MissingDataError(f"{listing} lists {len(missing)} file(s) that do not exist, the first is {missing[0]}")
    return cases


def _describe_all(description: dict[str, Any], listing: Path) -> Case:
    """What a listing says of all its cases: their modality and accepted label values."""
    common: Case = {"task": task_name(listing.parent)}
    try:
        modality = read_modality(description)
    except AttributeError as error:
        raise _no_listing(listing, "its 'modality' is not {number: name}") from error
    if modality is not None:
        common["modality"] = modality
    if "labels" in description:
        try:
            common["classes"] = sorted(int(value) for value in description["labels"])
        except (ValueError, TypeError) as error:
            raise _no_listing(listing, "its 'labels' is not {number: name}") from error
    return common


def _section_cases(description: dict[str, Any], section: str, listing: Path, common: Case) -> list[Case]:
    """The cases of one list; an item that is refused is a case with ``refused``, the reason."""
    items = description.get(section, [])
    if not isinstance(items, list):
        raise _no_listing(listing, f"its {section!r} is no list")
    cases = []
    for number, item in enumerate(items, start=1):
        fault = _fault_of_item(item, listing.parent)
        if fault:
            reason = (
                f"item {number} of the list {section!r} of {listing} {fault}; accepted are {ITEMS}; correct the item"
            )
            cases.append({"image": str(listing), "case": f"{section}_item_{number}", "refused": reason} | common)
        else:
            cases.append(_describe_item(item, listing.parent) | common)
    return cases


def _share_images(cases: Sequence[Case], others: Sequence[Case]) -> None:
    """Adds ``patient_images`` to cases of MR that tell their patient; images of other lists count as well."""
    shared: dict[str, list[str]] = {}
    for case in (*cases, *others):
        # CT and color pictures have scales of their own.
        if "patient" in case and "refused" not in case and case.get("modality", "MR") == "MR":
            shared.setdefault(str(case["patient"]), []).append(case["image"])
    files = {patient: sorted(filter(os.path.isfile, set(images))) for patient, images in shared.items()}
    for case in cases:
        if files.get(str(case.get("patient"))) and "refused" not in case:
            case["patient_images"] = files[str(case["patient"])]


def _fault_of_item(item: Any, root: Path) -> str:
    """Why an item of a listing is refused; empty where it is accepted."""
    if isinstance(item, dict) and "image" not in item:
        return "has no 'image'"
    given = item if isinstance(item, dict) else {"image": item}
    for key in ("image", "label"):
        if key in given and not isinstance(given[key], str):
            return f"has {json.dumps(given[key])[:40]} as its {key}"
    if not given["image"]:
        return "has an empty text as its image"
    return f"has the folder {given['image']} as its image" if os.path.isdir(root / given["image"]) else ""


def _describe_item(item: Any, root: Path) -> Case:
    """A case from an accepted item of a listing, which is a path or a dictionary."""
    given = {"image": item} if isinstance(item, str) else item
    case = {"image": str(root / given["image"]), "case": case_name(given["image"])}
    if "label" in given:
        case["label"] = str(root / given["label"])
    more: Case = {key: given.get(key) for key in ("region", "slice", "phase")}
    more |= {"patient": next((given[key] for key in PERSONS if key in given), None), "listed": given.get("classes")}
    return case | {key: value for key, value in more.items() if value is not None}


def name_folders(folders: Folders) -> list[tuple[str, str]]:
    """Returns every folder with the name of its task, which no other has."""
    taken: set[str] = set()
    listed = [folders] if isinstance(folders, str) else list(folders)
    return [(folder, free_name(task_name(folder), taken)) for folder in listed]


def labeled_cases(
    dataset_dir: Folders | None,
    output_dir: str | Path,
    *,
    spatial_dims: int = 3,
    phantom_tasks: Sequence[str] = PHANTOM_TASKS,
    phantom_cases: int = 12,
    seed: int = 0,
) -> list[Case]:
    """Returns the labeled cases of one or several data sets, or of phantoms made on the spot.

    Args:
        dataset_dir: Decathlon folder or a list of them, each one task; ``None`` or empty for phantoms.
        output_dir: Folder of the results; phantoms are written below ``output_dir/phantoms``.
        spatial_dims: Number of axes of the phantoms, 2 or 3. 3 by default.
        phantom_tasks: Names of the phantoms' tasks; ``PHANTOM_TASKS`` by default.
        phantom_cases: Number of phantoms of each task. 12 by default.
        seed: Seed of the phantoms. 0 by default.

    Raises:
        MissingDataError: When a data set is missing or empty.
    """
    if dataset_dir:
        return [case | {"task": task} for folder, task in name_folders(dataset_dir) for case in decathlon_cases(folder)]
    root = Path(output_dir) / "phantoms"
    logger.info(
        "no dataset_dir given: using %d phantom scans of each of %s in %s", phantom_cases, list(phantom_tasks), root
    )
    made = [phantom_dataset(root, task, phantom_cases, spatial_dims=spatial_dims, seed=seed) for task in phantom_tasks]
    return [case | {"phantom": True} for folder in made for case in decathlon_cases(folder)]


def weights_folder(cases: Sequence[Case], model_dir: str, output_dir: str) -> str:
    """Returns where a training run writes its weights and bank.

    Args:
        cases: Cases that the run trains on.
        model_dir: Folder for weights that were trained on given data.
        output_dir: Folder of the results. Weights of phantoms go to ``output_dir/models``, so that shipped weights stay
            untouched.
    """
    return str(Path(output_dir) / "models") if cases and all(case.get("phantom") for case in cases) else model_dir
