"""One reader for each annotation format: from the folder of a data set to rows or to a split.

Rows keep the order of the annotation files; folders are listed sorted. Readers do not look for the images.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .files import read_json, read_text
from .folders import images_in, list_classes, subfolders
from .splits import Row, Rows, Split, cut_classes, split_by_ratios

RowReader = Callable[[Path, str], Rows]  # (folder of the data set, annotation file in it) -> rows


def from_lists(folder: Path, images: Path, files: tuple[str, ...], rows: RowReader) -> Split:
    """Read one annotation file per part: train, val and test, or train-and-val and test.

    With two files, 20 % of each class of the first file become val, drawn from the global ``random``.
    """
    parts = [rows(folder, name) for name in files]
    if len(parts) == 3:
        return Split(*parts)
    val, train = cut_classes(parts[0], (0.2, 0.8))
    return Split(train, val, parts[1])


def from_class_folders(
    folder: Path, images: Path, ignored: tuple[str, ...] = (), rename: Mapping[str, str] = {}
) -> Split:
    """List class folders and split them 50/20/30 by the global ``random``.

    ``rename`` maps a class folder to the name of its class; other classes are named after their folder.
    """
    found = enumerate(list_classes(images, ignored).items())
    return split_by_ratios([Row(f"{c}/{f}", label, rename.get(c, c)) for label, (c, files) in found for f in files])


def flowers(folder: Path, images: Path) -> Split:
    """Read ``imagelabels.mat`` (labels of the numbered images, from 1) and ``cat_to_name.json``; split 50/20/30."""
    path = folder / "cat_to_name.json"
    names = read_json(path, "annotation file")
    labels = [int(label) for label in np.ravel(_mat(folder / "imagelabels.mat", "labels"))]
    unnamed = next((label for label in labels if str(label) not in names), None)
    if unnamed is not None:
        raise ValueError(f"{path} has no name for class {unnamed}")
    return split_by_ratios([Row(f"image_{i:05d}.jpg", y - 1, names[str(y)]) for i, y in enumerate(labels, 1)])


def pet_rows(folder: Path, name: str) -> Rows:
    """Read lines such as ``Great_Pyrenees_12 5 2 3``: image (class name and number), label from 1, species, breed."""
    lines = _fields(folder / name, "image label species breed", 4)
    found = ((image, _number(label, folder / name) - 1) for image, label, _, _ in lines)
    return [Row(f"{image}.jpg", label, image.rpartition("_")[0].lower()) for image, label in found]


def car_rows(folder: Path, name: str) -> Rows:
    """Read ``annotations`` of the devkit; class "Make Model Type Year" becomes "Year Make Model Type".

    The name of the annotation file gives the image folder, ``cars_train`` or ``cars_test``.
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
        rows.append(Row(f"{place}/{entry['fname']}", label, f"{year} {model}"))
    return rows


def aircraft_rows(folder: Path, name: str) -> Rows:
    """Read lines such as ``1025794 707-320``: image, variant; ``variants.txt`` lists the variants by label."""
    index = folder / "variants.txt"
    labels = {variant: label for label, variant in enumerate(_lines(index))}
    lines = _fields(folder / name, "image variant", 2)
    return [Row(f"{image}.jpg", _look_up(labels, variant, index), variant) for image, variant in lines]


def scene_rows(folder: Path, name: str) -> Rows:
    """Read lines such as ``/a/apartment/outdoor/x.jpg``; the label is the line of the folder in ``ClassName.txt``.

    The class name is the path below the letter in reverse order, "outdoor apartment".
    """
    index = folder / "ClassName.txt"
    labels = {line.lstrip("/"): label for label, line in enumerate(_lines(index))}
    rows = []
    for line in _lines(folder / name):
        path = line.lstrip("/")
        scene = path.rpartition("/")[0]
        rows.append(Row(path, _look_up(labels, scene, index), " ".join(reversed(scene.split("/")[1:]))))
    return rows


def action_rows(folder: Path, name: str) -> Rows:
    """Read lines such as ``ApplyLipstick/v_x.avi 1``: a video; its middle frame is ``Apply_Lipstick/v_x.jpg``."""
    index = folder / "ucfTrainTestlist" / "classInd.txt"
    labels = {action: _number(label, index) - 1 for label, action in _fields(index, "label action", 2)}
    rows = []
    for line in _lines(folder / name):
        action, _, video = line.split(" ")[0].partition("/")
        label = _look_up(labels, action, index)
        title = "_".join(re.findall("[A-Z][^A-Z]*", action))
        rows.append(Row(f"{title}/{Path(video).stem}.jpg", label, title))
    return rows


def imagenet(folder: Path, images: Path) -> Split:
    """List ``train`` and ``val`` of ImageNet; ``val`` becomes the test set, and there is no validation set."""
    val = images / "val"
    if val.is_dir() and not subfolders(val) and images_in(val):
        raise ValueError(
            f"{val} is flat: its {len(images_in(val)):,} images are not in class folders; move each to val/<wnid>/ "
            "(the public valprep.sh does it; the devkit lists the classes in ILSVRC2012_validation_ground_truth.txt)"
        )
    names = _wnid_names(folder)
    found = {part: list_classes(images / part) for part in ("train", "val")}
    odd = sorted(found["train"].keys() ^ found["val"].keys())
    if odd:
        where = "train" if odd[0] in found["train"] else "val"
        raise ValueError(f"{images}: {len(odd)} classes are in one of train and val only, as {odd[0]} in {where}")
    train, test = (_wnid_rows(found[part], names, folder, f"{part}/") for part in ("train", "val"))
    return Split(train, [], test)


def wnid_folders(folder: Path, images: Path) -> Split:
    """List a variant of ImageNet in folders named by wnid; labels number the existing folders."""
    return Split([], [], _wnid_rows(list_classes(images), _wnid_names(folder), folder, ""))


def numbered_folders(folder: Path, images: Path) -> Split:
    """List a variant of ImageNet in folders ``0``, ``1``, ...; folder k is line k of ``classnames.txt``."""
    names, found = list(_wnid_names(folder).values()), list_classes(images)
    missing = next((label for label in range(len(names)) if str(label) not in found), None)
    if missing is not None or len(found) != len(names):
        raise ValueError(f"{images} has {len(found)} class folders; classnames.txt names {len(names)}, 0 and up")
    return Split([], [], [Row(f"{k}/{file}", k, name) for k, name in enumerate(names) for file in found[str(k)]])


def _wnid_rows(found: dict[str, list[str]], names: dict[str, str], folder: Path, prefix: str) -> Rows:
    rows: Rows = []
    for label, (wnid, files) in enumerate(found.items()):
        name = _look_up(names, wnid, folder / "classnames.txt")
        rows += [Row(f"{prefix}{wnid}/{file}", label, name) for file in files]
    return rows


def _wnid_names(folder: Path) -> dict[str, str]:
    return dict(_fields(folder / "classnames.txt", "wnid class name", 2))


def _lines(path: Path) -> list[str]:
    lines = [line.strip() for line in read_text(path, "annotation file").splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"annotation file {path} is empty")
    return lines


def _fields(path: Path, form: str, count: int) -> Iterator[list[str]]:
    """Yield ``count`` words per line; the last one takes the rest of the line."""
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
    except Exception as error:  # scipy raises various types for a damaged file
        raise ValueError(f"annotation file {path} is not a MATLAB file ({error})") from None
    if name not in content:
        raise ValueError(f"annotation file {path} has no {name!r}")
    return content[name]
