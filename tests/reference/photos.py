"""A folder of photos in class folders, made from images of the mini suite."""

from pathlib import Path

from PIL import Image

from datasets.mini.suite import image, read_suite


def write_photos(folder: Path, classes: int, images: int) -> list[Path]:
    """Write ``images`` pictures of each of the first ``classes`` animals; return their paths in order."""
    animals, paths = read_suite()["mini_animals"], []
    for label, name in enumerate(animals.classes()[:classes]):
        (folder / name).mkdir(parents=True)
        for i in range(images):
            paths.append(folder / name / f"{i:02}.png")
            Image.fromarray(image(animals, "train", label, i)).save(paths[-1])
    return paths
