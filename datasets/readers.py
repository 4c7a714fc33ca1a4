"""One reader for each format of annotations: from a data set's folder to rows (path, label, class name).

Rows come in the order of the annotation files; folders are listed sorted. Whether images are there is asked later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable

import numpy as np

from .files import cache_root, read_json, read_text
from .partition import Listing, Rows, cut_by_ratios, hold_out_val
from .scan import kept_scan, pictures, scan, sub_folders

RowReader = Callable[[Path, str], Rows]  # (data set's folder, annotation file in it) -> rows


def from_lists(folder: Path, images: Path, files: tuple[str, ...], rows: RowReader) -> Listing:
    """Read one annotation file for each part: train, val and test, or train-and-val and test.

    With two files, 20 % of each class of the first are held out for validation, by the global ``random``.
    """
    parts = [rows(folder, name) for name in files]
    return Listing(*parts) if len(parts) == 3 else Listing(*hold_out_val(parts[0]), parts[1])


def from_class_folders(
    folder: Path, images: Path, ignored: tuple[str, ...] = (), rename: Mapping[str, str] | None = None
) -> Listing:
    """List a folder of class folders and cut it 50/20/30 by the global ``random``; a class is named after its folder.

    Args:
        folder: the data set's folder.
        images: the folder of class folders.
        ignored: class folders that are no classes.
        rename: class folder -> class name, where they differ.
    """
    names = rename or {}
    found = enumerate(scan(images, ignored).items())
    return cut_by_ratios([(f"{c}/{file}", label, names.get(c, c)) for label, (c, files) in found for file in files])


def flowers(folder: Path, images: Path) -> Listing:
    """Read ``imagelabels.mat`` (a label from 1 for each numbered image) and ``cat_to_name.json``; cut 50/20/30."""
    path = folder / "cat_to_name.json"
    names = read_json(path, "annotation file")
    labels = [int(label) for label in np.ravel(_mat(folder / "imagelabels.mat", "labels"))]
    unnamed = next((label for label in labels if str(label) not in names), None)
    if unnamed is not None:
        raise ValueError(f"{path} has no name for class {unnamed}")
    return cut_by_ratios([(f"image_{i:05d}.jpg", y - 1, names[str(y)]) for i, y in enumerate(labels, 1)])


def pet_rows(folder: Path, name: str) -> Rows:
    """Rows of ``Great_Pyrenees_12 5 2 3``: image, label from 1, species, breed; named as the image without number."""
    rows = []
    for image, label, _, _ in _fields(folder / name, "image label species breed", 4):
        rows.append((f"{image}.jpg", _number(label, folder / name) - 1, image.rpartition("_")[0].lower()))
    return rows


def car_rows(folder: Path, name: str) -> Rows:
    """Rows of a devkit's ``annotations``; "Make Model Type Year" is named "Year Make Model Type".

    Images are in ``cars_train`` or ``cars_test``, as the annotation file's name says.
    """
    names = [str(made) for made in np.atleast_1d(_mat(folder / "devkit" / "cars_meta.mat", "class_names"))]
    found = _mat(folder / name, "annotations")
    place = Path(name).name.partition("_annos")[0]
    rows = []
    for entry in [found] if isinstance(found, dict) else found:
        if "class" not in entry:
            raise ValueError(f"{folder / name} has no labels; fetch the file with labels ({Path(name).name})")
        label = int(entry["class"]) - 1
        if not 0 <= label < len(names):
            raise ValueError(f"{folder / name} has the label {label + 1}, but cars_meta.mat names {len(names)} classes")
        model, _, year = names[label].rpartition(" ")
        rows.append((f"{place}/{entry['fname']}", label, f"{year} {model}"))
    return rows


def aircraft_rows(folder: Path, name: str) -> Rows:
    """Rows of ``1025794 707-320``: image and variant; the label is the variant's line in ``variants.txt``."""
    labels = {variant: label for label, variant in enumerate(_lines(folder / "variants.txt"))}
    rows = []
    for image, variant in _fields(folder / name, "image variant", 2):
        rows.append((f"{image}.jpg", _look_up(labels, variant, folder / "variants.txt"), variant))
    return rows


def scene_rows(folder: Path, name: str) -> Rows:
    """Rows of ``/a/apartment/outdoor/x.jpg``: the label is the folder's line in ``ClassName.txt``, the name is its
    parts below the letter from last to first, "outdoor apartment"."""
    index = folder / "ClassName.txt"
    labels = {line.lstrip("/"): label for label, line in enumerate(_lines(index))}
    rows = []
    for line in _lines(folder / name):
        path = line.lstrip("/")
        scene = path.rpartition("/")[0]
        rows.append((path, _look_up(labels, scene, index), " ".join(reversed(scene.split("/")[1:]))))
    return rows


def action_rows(folder: Path, name: str) -> Rows:
    """Rows of ``ApplyLipstick/v_x.avi 1``: a video, of which the middle frame is kept as ``Apply_Lipstick/v_x.jpg``."""
    index = folder / "ucfTrainTestlist" / "classInd.txt"
    labels = {action: _number(label, index) - 1 for label, action in _fields(index, "label action", 2)}
    rows = []
    for line in _lines(folder / name):
        action, _, video = line.split(" ")[0].partition("/")
        label = _look_up(labels, action, index)
        title = "_".join(re.findall("[A-Z][^A-Z]*", action))
        rows.append((f"{title}/{Path(video).stem}.jpg", label, title))
    return rows


def imagenet(folder: Path, images: Path) -> Listing:
    """List ``train`` and ``val``; ``val`` is the test, and there is none to choose by."""
    if images.joinpath("val").is_dir():  # first: a missing classnames.txt should not hide it
        _check_not_flat(images / "val")
    names = _wnid_names(folder)
    found = {part: kept_scan(images / part, cache_root(folder) / f"listing_{part}.json") for part in ("train", "val")}
    odd = sorted(found["train"].keys() ^ found["val"].keys())
    if odd:
        where = "train" if odd[0] in found["train"] else "val"
        raise ValueError(f"{images}: {len(odd)} classes are in one of train and val only, as {odd[0]} in {where}")
    train, test = (_wnid_rows(found[part], names, folder, f"{part}/") for part in ("train", "val"))
    return Listing(train, [], test)


def wnid_folders(folder: Path, images: Path) -> Listing:
    """List a variant of ImageNet in folders named by wnid; labels count the folders that are there."""
    return Listing([], [], _wnid_rows(scan(images), _wnid_names(folder), folder, ""))


def numbered_folders(folder: Path, images: Path) -> Listing:
    """List a variant of ImageNet in folders ``0``, ``1``, ...; folder k is line k of ``classnames.txt``."""
    names, found = list(_wnid_names(folder).values()), scan(images)
    missing = next((label for label in range(len(names)) if str(label) not in found), None)
    if missing is not None or len(found) != len(names):
        raise ValueError(f"{images} has {len(found)} class folders; classnames.txt names {len(names)}, 0 and up")
    return Listing([], [], [(f"{k}/{file}", k, name) for k, name in enumerate(names) for file in found[str(k)]])


def _wnid_rows(found: dict[str, list[str]], names: dict[str, str], folder: Path, prefix: str) -> Rows:
    rows: Rows = []
    for label, (wnid, files) in enumerate(found.items()):
        name = _look_up(names, wnid, folder / "classnames.txt")
        rows += [(f"{prefix}{wnid}/{file}", label, name) for file in files]
    return rows


def _wnid_names(folder: Path) -> dict[str, str]:
    return {wnid: name for wnid, name in _fields(folder / "classnames.txt", "wnid class name", 2)}


def _check_not_flat(val: Path) -> None:
    if not sub_folders(val) and pictures(val):
        raise ValueError(
            f"{val} is flat: its {len(pictures(val)):,} images are not in class folders; move each to val/<wnid>/ (the "
            "devkit's ILSVRC2012_validation_ground_truth.txt and meta.mat say which, the public valprep.sh does it)"
        )


def _lines(path: Path) -> list[str]:
    lines = [line.strip() for line in read_text(path, "annotation file").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"annotation file {path} is empty")
    return lines


def _fields(path: Path, form: str, count: int) -> Iterator[list[str]]:
    """Yield the words of each line, ``count`` of them; the last takes the rest of the line."""
    for line in _lines(path):
        words = line.split(" ", count - 1)
        if len(words) != count:
            raise ValueError(f"annotation file {path} has the line {line!r}; it should be {form!r}")
        yield words


def _number(word: str, path: Path) -> int:
    if not word.isdigit() or int(word) < 1:
        raise ValueError(f"annotation file {path} has the label {word!r}; it should be a number from 1")
    return int(word)


def _look_up(known: Mapping[str, Any], name: str, path: Path) -> Any:
    if name not in known:
        raise ValueError(f"{path} does not name the class {name!r}")
    return known[name]


def _mat(path: Path, name: str) -> Any:
    from scipy.io import loadmat

    if not path.is_file():
        raise FileNotFoundError(f"annotation file not found: {path}")
    try:
        content = loadmat(path, simplify_cells=True)
    except Exception as error:  # scipy raises several kinds for a damaged file
        raise ValueError(f"annotation file {path} is no MATLAB file ({error})") from None
    if name not in content:
        raise ValueError(f"annotation file {path} has no {name!r}")
    return content[name]
