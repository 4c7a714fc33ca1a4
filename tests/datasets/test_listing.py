"""What of a folder is taken, what is left out and told, and what is unusual about the images that are taken."""

import json
import os
import shutil
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image

from datasets import __main__ as command
from datasets.folders import list_classes
from datasets.survey import leaked, unusual
from tests.engine.test_images import png
from tests.reference.layouts import class_folders, put, text


def taken(made):
    return {os.path.relpath(d.impath, made.image_dir) for part in (made.train_x, made.val, made.test) for d in part}


HIDDEN = [
    "cat/.ipynb_checkpoints/image_0001-checkpoint.jpg", "cat/@eaDir/SYNOPHOTO_THUMB_M.jpg", "cat/.hidden.jpg",
    "dog/a/__MACOSX/x.jpg", ".trash/x/y.jpg", "lost+found/x.jpg",
]  # fmt: skip


def test_hidden_folders_are_never_taken_and_all_that_is_left_out_is_told(tmp_path, make, caplog, capsys):
    class_folders(tmp_path, ["cat", "dog"])
    whole = {f"{name}/image_{i:04d}.jpg" for name in ("cat", "dog") for i in range(10)}
    put(tmp_path, [*HIDDEN, "cat/a.heic", "dog/b.HEIC", "dog/c.avif", "flat.jpg"])
    text(tmp_path / "cat" / "notes.txt", ["no image"])
    (tmp_path / "dog" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "dog" / "up").symlink_to(tmp_path / "dog")
    made = make("Folder", tmp_path)
    assert taken(made) == whole and made.classnames == ["cat", "dog"]
    assert made.image_notes == {
        "left out: hidden": 6, "left out: named *.heic": 2, "left out: named *.avif": 1, "left out: named *.txt": 1,
        "left out: no file, or a link to nothing": 1, "left out: folders above, or listed already, through a link": 1,
        "left out: beside the class folders": 1,
    }  # fmt: skip
    assert f"Left out: 2 named *.heic: {tmp_path / 'cat' / 'a.heic'}, {tmp_path / 'dog' / 'b.HEIC'}" in caplog.text
    assert command.main(["check", "Folder", "--root", str(tmp_path)]) == 0
    assert "note: left out: 2 named *.heic: " in capsys.readouterr().out


def test_links_to_files_and_folders_are_followed_once(tmp_path, make):
    class_folders(tmp_path / "elsewhere", ["more", "deep"], 8)
    class_folders(tmp_path / "data", ["cat"], 4)
    (tmp_path / "data" / "dog").symlink_to(tmp_path / "elsewhere" / "more")
    (tmp_path / "data" / "cat" / "linked").symlink_to(tmp_path / "elsewhere" / "deep")
    (tmp_path / "data" / "cat" / "one.jpg").symlink_to(tmp_path / "elsewhere" / "more" / "image_0000.jpg")
    for i in range(30):  # without memory, 2 ** 30 folders
        (tmp_path / f"d{i}").mkdir()
    for i in range(29):
        for name in "ab":
            (tmp_path / f"d{i}" / name).symlink_to(tmp_path / f"d{i + 1}")
    put(tmp_path / "d29", ["x.jpg"])
    (tmp_path / "data" / "cat" / "many").symlink_to(tmp_path / "d0")
    made = make("Folder", tmp_path / "data")
    found = taken(made)
    assert len(found) == 8 + 4 + 8 + 1 + 1 and "cat/one.jpg" in found and "cat/linked/image_0000.jpg" in found


def test_loops_of_links_and_folders_of_two_classes(tmp_path, make):
    """A link to a folder above would take the test images for training, and other classes' for its own."""
    for part in ("train", "test"):
        class_folders(tmp_path / part, ["cat", "dog"], 3)
    (tmp_path / "train" / "cat" / "all").symlink_to(tmp_path)
    (tmp_path / "train" / "cat" / "itself.jpg").symlink_to("itself.jpg")
    made = make("Folder", tmp_path)
    assert (len(made.train_x), len(made.test)) == (6, 6) and made.image_notes == {
        "left out: folders above, or listed already, through a link": 1, "left out: no file, or a link to nothing": 1,
    }  # fmt: skip
    (tmp_path / "train" / "dog" / "more").symlink_to(tmp_path / "train" / "cat")
    with pytest.raises(ValueError, match=r"through links, the class folders .*train/cat and .*train/dog share a fold"):
        make("Folder", tmp_path)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, make, monkeypatch):
    class_folders(tmp_path, ["cat", "dog"])
    put(tmp_path, ["cat/locked/x.jpg"])
    right = os.listdir

    def listdir(folder):
        if str(folder).endswith("locked"):  # the tests may run as root, whom no mode stops
            raise PermissionError(13, "Permission denied", str(folder))
        return right(folder)

    monkeypatch.setattr(os, "listdir", listdir)
    with pytest.raises(PermissionError, match=r"cat/locked cannot be listed \(Permission denied\)"):
        make("Folder", tmp_path)


def test_test_images_with_the_content_of_training_images_are_told(tmp_path, make, caplog, capsys):
    for part in ("train", "test"):
        class_folders(tmp_path / part, ["cat", "dog"], 3)
    shutil.copy(tmp_path / "train" / "cat" / "image_0000.jpg", tmp_path / "test" / "cat" / "copy.jpg")
    made = make("Folder", tmp_path)
    assert made.image_notes == {"test images that are also for training or validation": 1}
    assert "test/cat/copy.jpg" in caplog.text
    assert command.main(["check", "Folder", "--root", str(tmp_path)]) == 1
    assert "1 of 7 images of the test have the content of one for training or validation" in capsys.readouterr().out


def test_leaked_is_equality_of_content(tmp_path):
    contents = [b"a", b"b", b"ab", b"ba", b"a", b"", b""]
    paths = [str(tmp_path / str(i)) for i in range(len(contents))]
    for path, content in zip(paths, contents):
        with open(path, "wb") as file:
            file.write(content)
    known = contents[:3] + contents[5:6]
    assert leaked([*paths[:3], paths[5]], paths) == [p for p, c in zip(paths, contents) if c in known]


NOISE = np.random.RandomState(0).randint(0, 255, (6, 8, 4), dtype=np.uint8)


def test_unusual_pictures_are_counted(tmp_path, make, capsys):
    class_folders(tmp_path, ["cat", "dog"])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(NOISE[..., :3]).save(tmp_path / "cat" / "turned.jpg", exif=exif)
    Image.fromarray(NOISE).save(tmp_path / "cat" / "clear.png")
    Image.new("RGBA", (4, 4), (9, 9, 9, 255)).save(tmp_path / "cat" / "opaque.png")
    Image.fromarray(NOISE[..., 0].astype(np.uint16) * 9).save(tmp_path / "dog" / "wide.png")
    Image.new("RGB", (5, 5), "red").save(tmp_path / "dog" / "plain.bmp")
    Image.new("P", (5, 5), 3).save(tmp_path / "dog" / "plain.gif")
    expected = {
        "cat/turned.jpg": ["turned by EXIF data"], "cat/clear.png": ["with transparency"],
        "cat/opaque.png": ["of one colour"], "dog/wide.png": ["with more than 8 bits a pixel"],
        "dog/plain.bmp": ["of one colour"], "dog/plain.gif": ["of one colour"], "dog/image_0000.jpg": [],
    }  # fmt: skip
    for path, notes in expected.items():
        assert unusual(str(tmp_path / path), decode=True) == notes
    notes = {note: n for note, n in make("Folder", tmp_path).image_notes.items() if not note.startswith("left")}
    assert notes == {"turned by EXIF data": 1, "with transparency": 2, "with more than 8 bits a pixel": 1}
    assert command.main(["check", "Folder", "--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "note: of 26 images opened, 3 of one colour: " in out and "note: of 26 images opened, 1 turned by" in out


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_file_that_is_no_image_is_named_before_the_training(tmp_path, make, part):
    for name in ("train", "val", "test"):
        class_folders(tmp_path / name, ["cat", "dog"], 2)
    (tmp_path / part / "dog" / "bad.jpg").write_bytes(png(20000, 20000))
    with pytest.raises(ValueError, match=f"Unreadable image: .*{part}/dog/bad.jpg"):
        make("Folder", tmp_path)


def test_without_depth_the_listing_is_that_of_names(tmp_path):
    put(tmp_path / "x", ["b.jpg", "a.JPG", ".c.jpg", "d/e.jpg"])
    assert list_classes(tmp_path) == {"x": ["a.JPG", "b.jpg"]}
    assert list_classes(tmp_path, left_out=defaultdict(list)) == {"x": ["a.JPG", "b.jpg", "d/e.jpg"]}


@pytest.mark.parametrize("names", [[f"{i}" for i in range(10)], [f"{i:02d}" for i in range(11)]])
def test_a_list_of_names_for_numbered_classes(tmp_path, make, names):
    class_folders(tmp_path, names, 4)
    text(tmp_path / "names.txt", [f"name {i}" for i in range(len(names))])
    assert make("Folder", tmp_path, CLASSNAMES="names.txt").classnames[-1] == f"name {len(names) - 1}"


def test_a_list_of_names_for_numbers_in_the_order_of_text_is_refused(tmp_path, make):
    class_folders(tmp_path, [f"{i}" for i in range(11)], 4)
    text(tmp_path / "names.txt", [f"name {i}" for i in range(11)])
    with pytest.raises(ValueError, match="numbers in the order of text"):
        make("Folder", tmp_path, CLASSNAMES="names.txt")
    (tmp_path / "names.json").write_text(json.dumps({str(i): f"name {i}" for i in range(11)}))
    made = make("Folder", tmp_path, CLASSNAMES="names.json")
    assert all(f"name {os.path.basename(os.path.dirname(d.impath))}" == d.classname for d in made.test)
