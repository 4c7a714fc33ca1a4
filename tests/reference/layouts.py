"""Small folders in the real layout and file formats of each data set, with what should be read from them.

Each maker fills ``root`` and returns the class names in the order of their labels. Every image is the same small JPEG,
followed by its name, so that the files differ.
"""

import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

WNIDS = {"n01440764": "tench", "n01443537": "goldfish", "n01484850": "great white shark"}


@lru_cache(maxsize=1)
def jpeg() -> bytes:
    """Return a small JPEG file."""
    buffer = io.BytesIO()
    image = Image.new("RGB", (8, 6), (200, 30, 60))
    image.paste((20, 90, 160), (0, 0, 4, 6))
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def put(folder: Path, names: Iterable[str]) -> None:
    """Write images."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg() + os.fsencode(f"{folder.name}/{name}"))


def text(path: Path, lines: Iterable[str]) -> None:
    """Write a text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def class_folders(folder: Path, names: Sequence[str], count: int = 10) -> None:
    """Write ``count`` images a class folder."""
    put(folder, [f"{name}/image_{i:04d}.jpg" for name in names for i in range(count)])


Maker = Callable[[Path], list[str]]


def _class_folders(folder: str, folders: str, classnames: Sequence[str] = ()) -> Maker:
    def make(root: Path) -> list[str]:
        class_folders(root / folder, folders.split())
        return list(classnames) or sorted(folders.split())

    return make


def caltech(root: Path) -> list[str]:
    folder = "caltech-101/101_ObjectCategories"
    names = "BACKGROUND_Google Faces Faces_easy Leopards Motorbikes accordion airplanes"
    class_folders(root / folder, names.split())
    (root / folder / ".hidden").mkdir()
    (root / folder / "accordion" / ".directory").touch()
    return ["face", "leopard", "motorbike", "accordion", "airplane"]


EUROSAT = "AnnualCrop Forest HerbaceousVegetation Highway Industrial Pasture PermanentCrop Residential River SeaLake"
EUROSAT_NAMES = [
    "Annual Crop Land", "Forest", "Herbaceous Vegetation Land", "Highway or Road", "Industrial Buildings",
    "Pasture Land", "Permanent Crop Land", "Residential Buildings", "River", "Sea or Lake",
]  # fmt: skip


def pets(root: Path) -> list[str]:
    folder = root / "oxford_pets"
    breeds = {"Abyssinian": (1, 1, 1), "american_bulldog": (2, 2, 1), "Great_Pyrenees": (3, 2, 2)}
    lists = {"trainval": range(1, 11), "test": range(101, 106)}
    for name, numbers in lists.items():
        rows = [(f"{breed}_{n}", *ids) for breed, ids in breeds.items() for n in numbers]
        put(folder / "images", [f"{row[0]}.jpg" for row in rows])
        text(folder / "annotations" / f"{name}.txt", [" ".join(map(str, row)) for row in rows])
    return ["abyssinian", "american_bulldog", "great_pyrenees"]


def cars(root: Path) -> list[str]:
    folder = root / "stanford_cars"
    models = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "smart fortwo Convertible 2012"]
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array([models], dtype=object)})
    boxes = [(name, "O") for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    for place, file, count in (
        ("cars_train", "devkit/cars_train_annos.mat", 30), ("cars_test", "cars_test_annos_withlabels.mat", 12)
    ):  # fmt: skip
        names = [f"{i:05d}.jpg" for i in range(1, count + 1)]
        put(folder / place, names)
        rows = [(1, 1, 8, 6, i % 3 + 1, name) for i, name in enumerate(names)]
        savemat(folder / file, {"annotations": _struct(rows, boxes)})
    return ["2000 AM General Hummer SUV", "2012 Acura RL Sedan", "2012 smart fortwo Convertible"]


def _struct(rows: list[tuple], fields: list) -> np.ndarray:
    found = np.empty((1, len(rows)), dtype=fields)
    for i, row in enumerate(rows):
        found[0, i] = row
    return found


def flowers(root: Path) -> list[str]:
    folder = root / "oxford_flowers"
    labels = np.array([[2] * 10 + [1] * 20 + [3] * 10], dtype=np.uint8)  # as in the real file, not in order
    put(folder / "jpg", [f"image_{i:05d}.jpg" for i in range(1, labels.size + 1)])
    savemat(folder / "imagelabels.mat", {"labels": labels})
    names = {"1": "pink primrose", "2": "hard-leaved pocket orchid", "3": "canterbury bells", "21": "fire lily"}
    (folder / "cat_to_name.json").write_text(json.dumps(names))
    return ["pink primrose", "hard-leaved pocket orchid", "canterbury bells"]


def aircraft(root: Path) -> list[str]:
    folder = root / "fgvc_aircraft"
    variants = ["707-320", "DC-3", "Falcon 2000", "F-16A/B"]  # the order of the file counts
    text(folder / "variants.txt", variants)
    number = 1_000_000
    for part, count in (("train", 4), ("val", 3), ("test", 5)):
        lines = []
        for variant in reversed(variants):
            for _ in range(count):
                number += 1
                lines.append(f"{number:07d} {variant}")
        put(folder / "images", [f"{line.split()[0]}.jpg" for line in lines])
        text(folder / f"images_variant_{part}.txt", lines)
    return variants


def scenes(root: Path) -> list[str]:
    folder = root / "sun397"
    names = ["/a/abbey", "/a/apartment_building/outdoor", "/c/church/indoor", "/c/church/outdoor"]
    text(folder / "ClassName.txt", names)
    for file, numbers in (("Training_01.txt", range(10)), ("Testing_01.txt", range(10, 16))):
        lines = [f"{name}/sun_{n:03d}.jpg" for name in names for n in numbers]
        put(folder / "SUN397", [line[1:] for line in lines])
        text(folder / file, lines)
    return ["abbey", "outdoor apartment_building", "indoor church", "outdoor church"]


def actions(root: Path) -> list[str]:
    folder = root / "ucf101"
    names = {"ApplyEyeMakeup": "Apply_Eye_Makeup", "Archery": "Archery", "YoYo": "Yo_Yo"}
    text(folder / "ucfTrainTestlist" / "classInd.txt", [f"{i} {name}" for i, name in enumerate(names, 1)])
    for file, groups in (("trainlist01.txt", range(8, 18)), ("testlist01.txt", range(1, 5))):
        videos = [(name, f"v_{name}_g{group:02d}_c01") for name in names for group in groups]
        put(folder / "UCF-101-midframes", [f"{names[name]}/{video}.jpg" for name, video in videos])
        label = {name: f" {i}" if file.startswith("train") else "" for i, name in enumerate(names, 1)}
        text(folder / "ucfTrainTestlist" / file, [f"{name}/{video}.avi{label[name]}" for name, video in videos])
    return list(names.values())


def _wnids(folder: str, parts: dict[str, int], suffix: str, wnids: Iterable[str] = WNIDS) -> Maker:
    """ImageNet or a variant: ``parts`` is image folder -> images per class; classes may be folders 0, 1, ..."""

    def make(root: Path) -> list[str]:
        for part, count in parts.items():
            put(root / folder / part, [f"{wnid}/{wnid}_{i}.{suffix}" for wnid in wnids for i in range(count)])
            text(root / folder / part / "README.txt", ["about"])
        text(root / folder / "classnames.txt", [f"{wnid} {name}" for wnid, name in WNIDS.items()])
        return [name for i, (wnid, name) in enumerate(WNIDS.items()) if wnid in wnids or str(i) in wnids]

    return make


SOME = ["n01484850", "n01443537"]

V2 = "imagenetv2-matched-frequency-format-val"
# registry name -> (maker, (train, val, test) by the rules of the ecosystem, worked out by hand)
LAYOUTS = {
    "ImageNet": (_wnids("imagenet", {"images/train": 6, "images/val": 4}, "JPEG"), (18, 0, 12)),
    "Caltech101": (caltech, (25, 10, 15)),  # 10 a class: 5, 2, 3
    "OxfordPets": (pets, (24, 6, 15)),  # 10 a class: 8, 2
    "StanfordCars": (cars, (24, 6, 12)),
    "OxfordFlowers": (flowers, (20, 8, 12)),
    "Food101": (_class_folders("food-101/images", "waffles apple_pie"), (10, 4, 6)),
    "FGVCAircraft": (aircraft, (16, 12, 20)),
    "SUN397": (scenes, (32, 8, 24)),
    "DescribableTextures": (_class_folders("dtd/images", "zigzagged banded lacelike"), (15, 6, 9)),
    "EuroSAT": (_class_folders("eurosat/2750", EUROSAT, EUROSAT_NAMES), (50, 20, 30)),
    "UCF101": (actions, (24, 6, 12)),
    "ImageNetV2": (_wnids("imagenetv2", {V2: 2}, "jpeg", "012"), (0, 0, 6)),
    "ImageNetSketch": (_wnids("imagenet-sketch", {"images": 3}, "JPEG"), (0, 0, 9)),
    "ImageNetA": (_wnids("imagenet-adversarial", {"imagenet-a": 2}, "jpg", SOME), (0, 0, 4)),
    "ImageNetR": (_wnids("imagenet-rendition", {"imagenet-r": 2}, "jpg", SOME), (0, 0, 4)),
}  # fmt: skip
