"""Generated tables, split files, class names, templates and few-shot pickles: read right, or refused in one line."""

import csv
import functools
import io
import json
import pickle

import open_clip
from dassl.data.datasets import DATASET_REGISTRY, Datum
from hypothesis import strategies as st

from datasets.config import check_template
from datasets.fewshot import unpickle_draw
from datasets.splits import check_name
from prompting.clip import tokenize_prompts, tokenize_texts
from prompting.clip.classnames import check_tokens
from prompting.clip.templates import fill
from prompting.clip.tokens import clean_name, clip_tokenizer
from tests.reference.configs import default_cfg
from tests.reference.generated import generated, is_one_line
from tests.reference.layouts import put

IMAGES = [f"{name}_{i}.jpg" for name in "abc" for i in range(4)]


def read(name, root, **keys):
    """Return the split of custom data as lists of (path, label, class name), or the error that refuses it."""
    cfg = default_cfg("DATASET.ROOT", str(root))
    cfg.DATASET.update(keys)
    try:
        return [[tuple(row) for row in part] for part in DATASET_REGISTRY.get(name).source(cfg).split]
    except Exception as error:
        assert is_one_line(error), repr(error)
        return error


def fits(name):
    try:
        check_name(name, "")
    except ValueError:
        return False
    return name == name.strip()


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(fits)
HEADERS = [
    None, ("path", "classname", "split"), ("Filename", "label", "subset"), ("image", "CLASS", "set"),
    ("file_name", "Category", "partition"),
]  # fmt: skip


@generated(
    20,
    200,
    names=st.lists(NAMES, min_size=2, max_size=4, unique=True),
    header=st.sampled_from(HEADERS),
    order=st.permutations(range(4)),
    width=st.integers(3, 4),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    ending=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig"]),
    windows=st.booleans(),
)
def test_a_right_table_is_read_as_it_stands(folder, names, header, order, width, quoting, ending, encoding, windows):
    """In any order of columns, one of which may say something else, quoting, line ending and encoding."""
    put(folder / "im", IMAGES if not (folder / "im").exists() else [])
    rows = [(f"im/{IMAGES[k]}", names[k % len(names)], "train" if k < 8 else "test") for k in range(len(IMAGES))]
    columns = [column for column in order if column < width] if header else range(3)
    out = io.StringIO()
    writer = csv.writer(out, quoting=quoting, lineterminator=ending)
    slash = "\\" if windows else "/"
    lines = [(*header, "pixels")] if header else []
    lines += [(path.replace("/", slash), name, part, "640") for path, name, part in rows]
    writer.writerows([line[column] for column in columns] for line in lines)
    (folder / "own.csv").write_bytes(out.getvalue().encode(encoding))
    labels = {name: label for label, name in enumerate(sorted(names))}
    expected = [[(path, labels[name], name) for path, name, part in rows if part == one] for one in ("train", "test")]
    found = read("Csv", folder / "own.csv")
    assert found == [expected[0], [], expected[1]]


CELLS = st.one_of(
    st.sampled_from([*IMAGES, "a", "b", "train", "test", "val", "path", "label", "class", "", " ", '"', "../x", "\0"]),
    st.text(max_size=8),
)


@generated(
    100, 1500, cells=st.lists(st.lists(CELLS, max_size=5), max_size=8), separator=st.sampled_from([",", ",", ";", "\n"])
)
def test_any_table_is_read_or_refused(folder, cells, separator):
    put(folder, IMAGES if not (folder / IMAGES[0]).exists() else [])
    (folder / "own.csv").write_text("\n".join(separator.join(row) for row in cells), errors="replace")
    found = read("Csv", folder / "own.csv", RATIOS=(0.5, 0.0, 0.5))
    if isinstance(found, Exception):
        return
    rows = [row for part in found for row in part]
    assert all(path in IMAGES for path, _, _ in rows) and found[0] and found[2]
    assert {label for _, label, _ in rows} == set(range(len({name for *_, name in rows})))
    text = (folder / "own.csv").read_text()
    assert all(path in text and name in text for path, _, name in rows)


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(IMAGES))
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner))
ROWS = st.tuples(st.sampled_from(IMAGES), st.integers(0, 2), st.sampled_from("abc")).map(list)
PARTS = st.lists(st.one_of(ROWS, ROWS, ROWS, JSON), max_size=6) | st.lists(ROWS, min_size=1, max_size=6) | JSON


@generated(80, 900, content=st.fixed_dictionaries({"train": PARTS, "test": PARTS}, optional={"val": PARTS}) | JSON)
def test_any_split_file_is_read_as_it_stands_or_refused(folder, content):
    put(folder, IMAGES if not (folder / IMAGES[0]).exists() else [])
    (folder / "split.json").write_text(json.dumps(content))
    found = read("SplitJson", folder)
    if not isinstance(found, Exception):
        assert found == [[tuple(row) for row in content.get(part, [])] for part in ("train", "val", "test")]
        classes = {(label, name) for part in found for _, label, name in part}
        assert len(classes) == len({label for label, _ in classes})


@generated(60, 800, text=st.text(max_size=200))
def test_any_text_as_a_split_file(folder, text):
    (folder / "split.json").write_text(text, errors="replace")
    assert isinstance(read("SplitJson", folder), Exception)


@functools.cache
def clip():
    """A tiny CLIP."""
    return open_clip.CLIP(
        16, {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}, {"layers": 1, "width": 64}
    )


WILD = st.one_of(
    st.text(max_size=12), NAMES, st.sampled_from(["cat", "Cat", "cat ", "ca_t", "cat.", "'s", "a\u0301", "á"])
)


@generated(100, 1200, names=st.lists(WILD, min_size=1, max_size=3))
def test_class_names_are_told_apart_or_refused(folder, names):
    try:
        for name in names:
            check_name(name, "here")
        check_tokens(names, refuse=True)
        tokens = tokenize_prompts(names, n_ctx=2, clip_model=clip())
    except ValueError as error:
        assert is_one_line(error), repr(error)
        return
    assert len({tuple(row) for row in tokens.ids[0].tolist()}) == len(names)
    for k, name in enumerate(names):
        assert tokens.ids[0, k][tokens.words[0, k]].tolist() and tokens.words[0, k].sum() <= len(
            clip_tokenizer().encode(clean_name(name))
        )


@generated(60, 1000, parts=st.lists(st.text(max_size=10), min_size=1, max_size=4), name=NAMES)
def test_templates_hold_the_name_or_are_refused(folder, parts, name):
    template = "{}".join(parts)
    node = {"TEMPLATE": template}
    try:
        check_template(node)
        text = fill(template or "a photo of a {}.", name)
        tokenize_texts([text], clip_model=clip())
    except ValueError as error:
        assert is_one_line(error), repr(error)
        return
    assert text.count(clean_name(name)) >= 1


@generated(100, 1500, content=st.binary(max_size=80) | st.builds(
    lambda head, tail: head + tail, st.binary(max_size=12), st.just(pickle.dumps([{"train": []}]))
), edits=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=3))  # fmt: skip
def test_any_few_shot_pickle_is_rows_or_refused(folder, content, edits):
    datum = Datum.__new__(Datum)
    datum.__dict__.update(_impath="/x/a.jpg", _label=0, _domain=0, _classname="a")
    whole = bytearray(pickle.dumps({"train": [datum], "val": []}) if edits else content)
    for position, value in edits:
        whole[position % len(whole)] = value
    path = folder / "shot.pkl"
    path.write_bytes(whole)
    try:
        found = unpickle_draw(path)
    except Exception as error:
        assert is_one_line(error) and str(path) in str(error), repr(error)
    else:
        assert all(isinstance(row.path, str) and type(row.label) is int for part in found.values() for row in part)
