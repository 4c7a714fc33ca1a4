"""Files that are not what they should be, and folders that cannot be written."""

import os
from pathlib import Path

import pytest

from datasets import files
from datasets.files import cache_root, write_json
from datasets.splits import check_name
from tests.reference.layouts import LAYOUTS, class_folders, put

CSV = [
    ("path,classname", "has no rows"),
    ("a.jpg", r"line 1: found \['a.jpg'\]"),
    ("a.jpg,cat,train\nb.jpg,cat", "line 2: found"),
    ("a.jpg,cat,tset", "split 'tset'; allowed: train, val, test; did you mean 'test'?"),
    ("a.jpg,,train", "line 1: found"),
    ("a.jpg,cat,train\nb.jpg,cat,train", "has no image for test"),
    ("a.jpg,cat,train\nx.jpg,cat,test", r"no such image: .*x\.jpg"),
    ("../a.jpg,cat,train\nb.jpg,cat,test", "leaves the image folder"),
    ("/etc/a.jpg,cat,train\nb.jpg,cat,test", "leaves the image folder"),
    ("a.jpg,Käse,train\nb.jpg,Käse,test\n".encode("latin-1"), r"CSV file .*own\.csv is not UTF-8 text"),
    ("picture_url,kind\nim/cat/0.jpg,cat\n", "line 1: found .*'picture_url' is no image, and a header needs"),
    ("filename,label,class\nim/cat/0.jpg,cat,cat\n", "its header names 'label' and 'class', which mean the same"),
    ("filename,label\nim/cat/0.jpg,cat,x\n", "line 2: 3 columns, but the header has 2"),
    ('im/cat/0.jpg,"cat\nim/dog/0.jpg,dog\nim/dog/1.jpg,dog\n', "line 3: this is not CSV"),
    ("im/cat/0.jpg,cat\nim/cat/0.jpg,cat\nim/dog/0.jpg,dog\n", "'im/cat/0.jpg' is in it twice"),
    ("im/cat/0.jpg,cat,train\nim/cat/0.jpg,dog,train\nim/dog/0.jpg,dog,test\n", "is in two classes, 'cat' and"),
    ("./im/cat/0.jpg,cat\nim//cat/0.jpg,cat\nim/dog/0.jpg,dog\n", "'im/cat/0.jpg' is in it twice"),
    ("./im/cat/0.jpg,cat,train\nim//cat/0.jpg,dog,train\nim/dog/0.jpg,dog,test\n", "is in two classes, 'cat' and"),
    ("im/cat/0.jpg," + "x" * 10**6 + "\n", "line 1: this is not CSV|1,000,000 characters"),
    ("im/cat/0.jpg," + "x" * 1000 + ",train\n" + "im/cat/1.jpg," + "x" * 1000 + ",test\n", "1,000 characters"),
    ("im/cat/0.jpg\0,cat\n", "own.csv"),
    ('im/cat/0.jpg,"a\nb",train\nim/cat/1.jpg,"a\nb",test\n', r"'a\\nb' has a line break"),
    ("im/cat/0.jpg,_,train\nim/cat/1.jpg,_,test\n", "'_' is empty"),
    ("im\\..\\..\\x.jpg,cat,train\nim/cat/1.jpg,cat,test\n", "leaves the image folder"),
    ("im/cat/0.jpg;cat\n", "line 1: found"),
]
ROW = '["im/cat/0.jpg", 0, "cat"]'
SPLIT_JSON = [
    ("[", "is not JSON"),
    ("[]", "holds a list; it should be an object"),
    (f'{{"train": [{ROW}]}}', "'test' is missing"),
    (f'{{"train": [], "test": [{ROW}]}}', "'train' is empty"),
    (f'{{"train": [{ROW}], "test": [["b.png", 0, "cat"]]}}', r"'test', row 0: no such image: .*b\.png"),
    ("[" * 10**5, "nested too deeply"),
    ('{"train": ' + "[" * 10**5 + "]" * 10**5 + "}", "nested too deeply"),
    (f'{{"train": [{ROW}], "train": [], "test": [{ROW}]}}', "the key 'train' is in it twice"),
    (f'{{"train": [["im/cat/0.jpg", {"9" * 5000}, "cat"]], "test": [{ROW}]}}', "split.json"),
    (f'{{"train": [["im/cat/0.jpg", 0, "\\ud800"]], "test": [{ROW}]}}', "an unknown byte"),
    (f'{{"train": [["im/cat/0.jpg", 0, "{"x" * 10**6}"]], "test": [{ROW}]}}', "1,000,000 characters"),
    (f'{{"train": [["im/cat/0.jpg", 0, "x", "{"x" * 10**6}"]], "test": [{ROW}]}}', "row 0: found"),
    (f'{{"train": [["im/cat/0.jpg", 0.5, "cat"]], "test": [{ROW}]}}', "row 0: found"),
    (f'{{"train": [["im/cat/0.jpg", NaN, "cat"]], "test": [{ROW}]}}', "row 0: found"),
    (f'{{"train": [{ROW}], "test": [["im/cat/0.jpg", true, "cat"]]}}', "'test', row 0: found .*; it should be"),
    (f'{{"train": [["im/cat/0.jpg", -1, "cat"]], "test": [{ROW}]}}', "row 0: found"),
    (f'{{"train": [["im/cat\\u0000/0.jpg", 0, "cat"]], "test": [{ROW}]}}', "no such image"),
    (f'{{"train": [{ROW}, ["./im//cat/0.jpg", 1, "dog"]], "test": [{ROW}]}}', "is in two classes"),
    (f'{{"train": [["im/cat", 0, "cat"]], "test": [{ROW}]}}', "No image file"),
    (f'{{"train": [["im/{"x" * 5000}/0.jpg", 0, "cat"]], "test": [{ROW}]}}', "no such image"),
]
BAD_FILES = [*(("Csv", "own.csv", *row) for row in CSV), *(("SplitJson", "split.json", *row) for row in SPLIT_JSON)]


@pytest.mark.parametrize(("kind", "file", "content", "words"), BAD_FILES, ids=lambda value: str(value)[:30])
def test_files_that_cannot_be_read_right_are_named(tmp_path, make, kind, file, content, words):
    put(tmp_path, ["a.jpg", "b.jpg", *(f"im/{name}/{i}.jpg" for name in ("cat", "dog") for i in range(6))])
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((ValueError, OSError), match=words) as caught:
        make(kind, tmp_path)
    assert "\n" not in str(caught.value) and (kind == "SplitJson" or len(str(caught.value)) < 700)


def test_names_of_any_script_are_names():
    for name in ("Käse", "猫", "a/b", "C#", "100%", "x" * 500, "it's", "“quoted”"):
        check_name(name, "here")


@pytest.fixture
def homeless(monkeypatch):
    """No home folder: no HOME, and a user whom the system does not know."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 4242424)
    assert os.path.expanduser("~") == "~"


def test_without_a_home_folder_data_are_read_and_drawn(tmp_path, make, homeless):
    LAYOUTS["Food101"][0](tmp_path)
    made = make("Food101", tmp_path, NUM_SHOTS=2)
    folder = tmp_path / "food-101"
    assert len(made.train_x) == 4 and (folder / "split_fewshot").is_dir()
    assert cache_root(folder) is None and not (tmp_path / "~").exists()


@pytest.mark.parametrize("home", [True, False], ids=["home", "no home"])
@pytest.mark.parametrize("name", ["Food101", "Folder"])
def test_where_nothing_can_be_written_align_cache_is_named(tmp_path, make, monkeypatch, request, home, name):
    """Everything is read-only: what the system says then is played, because the tests may run as root."""
    if not home:
        request.getfixturevalue("homeless")
    if name == "Folder":
        class_folders(tmp_path / "data", ["cat", "dog"])
    else:
        LAYOUTS[name][0](tmp_path / "data")
    before = sorted((tmp_path / "data").rglob("*"))

    def refuse(function):
        def call(path, *args, **options):
            if not str(path).startswith(str(tmp_path / "free")):
                raise OSError(30, "Read-only file system", path)
            return function(path, *args, **options)

        return call

    monkeypatch.setattr(files, "_writable", lambda folder: False)
    monkeypatch.setattr(os, "mkdir", refuse(os.mkdir))
    monkeypatch.setattr(files, "write_atomically", refuse(files.write_atomically))
    with pytest.raises(OSError, match=r"cannot be written \(Read-only file system\); set ALIGN_CACHE to a folder"):
        make(name, tmp_path / "data", NUM_SHOTS=2)
    monkeypatch.setenv("ALIGN_CACHE", str(tmp_path / "free"))
    assert len(make(name, tmp_path / "data", NUM_SHOTS=2).train_x) == 4
    assert sorted((tmp_path / "data").rglob("*")) == before


def test_a_file_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "x").write_text("")
    with pytest.raises(OSError, match=r"x/y\.json cannot be written: .*x is no folder"):
        write_json({}, tmp_path / "x" / "y.json")

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"z/y\.json cannot be written \(No space left on device\); set ALIGN_CACHE"):
        write_json({}, tmp_path / "z" / "y.json")


def test_a_template_without_a_place_or_of_any_length(tmp_path, make):
    LAYOUTS["EuroSAT"][0](tmp_path)
    class_folders(tmp_path / "own", ["cat", "dog"])
    for name, root in (("EuroSAT", tmp_path), ("Folder", tmp_path / "own")):
        for template in ("a photo", "{} " + "x" * 10**6):
            with pytest.raises(ValueError, match=r"TEMPLATE is .* needs \{\}") as caught:
                make(name, root, TEMPLATE=template)
            assert len(str(caught.value)) < 300
