"""Commands of align-clip that end before their time leave whole files, older or new, and no temporary ones."""

import os
import re
import signal
import time

import pytest

from tests.reference.crashing import ALIGN_CLIP, Run
from tests.reference.methods import train_on_four

COMMANDS = {
    "predict": ["predict", "{run}", "{pictures}", "--csv", "{out}/a.csv", "--json", "{out}/a.json"],
    "words": ["explain", "{run}", "words", "--output-dir", "{out}"],
    "curves": ["explain", "{run}", "curves", "--output-dir", "{out}"],
    "report": ["report", "--run", "{run}", "--output-file", "{out}/page.html"],
    "export": ["export", "{run}", "--output-dir", "{out}", "--no-measure", "--forms", "safetensors"],
    "distill": [*"distill {run} {pictures} --output-dir {out} --no-measure --epochs 1 --views 1 --workers 0".split()],
}
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train_on_four("CoOp", folder).train()
    return folder / "out"


def start(name, run, place, **how):
    """Start a command that writes to ``place / "out"``."""
    places = {"run": str(run), "pictures": str(run.parent / "0.png"), "out": str(place / "out")}
    return Run([word.format(**places) for word in COMMANDS[name]], place, module=ALIGN_CLIP, **how)


def files(place):
    """The content of all files, without the times in a report and in ``distill.json``."""
    found = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    times = rb'\d{4}-\d\d-\d\d \d\d:\d\d|"seconds": \{[^}]*\}'
    return {name: re.sub(times, b"", content) for name, content in found.items()}


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """What a command writes when nothing ends it, and its number of changes of files; made when it is asked for."""
    known = {}

    def make(name):
        if name not in known:
            place = tmp_path_factory.mktemp(name)
            code, printed = start(name, run, place, at_change=0).end()
            assert code == 0, printed
            known[name] = files(place), int(re.search(r"changes: (\d+)", printed)[1])
        return known[name]

    return make


def interrupt(name, run, place, whole, change, number):
    """End a command at a change of a file, look at what is there, and repeat it."""
    wanted, _ = whole(name)
    (place / "out").mkdir(parents=True)
    older = {} if name == "distill" else dict.fromkeys(wanted, b"older")  # a student goes to an empty folder
    for path, content in older.items():
        (place / path).write_bytes(content)
    code, printed = start(name, run, place, at_change=change, number=number).end()
    found = files(place)
    if code == 0:  # fewer changes than in an empty folder: it was through before
        assert found == wanted
    elif number == signal.SIGKILL:
        assert code == -signal.SIGKILL
        found = {path: content for path, content in found.items() if "/." not in f"/{path}"}
    else:
        command = COMMANDS[name][0]
        assert code == 128 + number and printed.splitlines()[-1] == f"align-clip {command}: interrupted", printed
        assert "Traceback" not in printed
        assert not [path.name for path in place.rglob("*") if path.name.startswith(".")]
    assert all(content in (wanted[path], older.get(path)) for path, content in found.items())
    assert set(older) - set(found) <= {"out/README.md"}  # without which an export is not whole
    for path in place.rglob(".*.tmp"):
        os.utime(path, (time.time() - 7200,) * 2)
    if name == "distill" and found:  # killed while files move: the folder is no longer empty
        assert "out/README.md" not in found or found == wanted
        return
    code, printed = start(name, run, place).end()
    assert code == 0 and files(place) == wanted, printed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predict", "words", "export"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ended_at_a_change_of_a_file(run, whole, tmp_path, name, number):
    changes = whole(name)[1]
    for change in {round(part * changes) for part in (0.5, 0.8)}:
        interrupt(name, run, tmp_path / str(change), whole, change, number)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "distill"])
@pytest.mark.parametrize("limit", [100, 3000])
def test_no_room_for_a_file(run, whole, tmp_path, name, limit):
    wanted, older = whole(name)[0], {}
    (tmp_path / "out").mkdir()
    for path in wanted:
        (tmp_path / path).write_bytes(b"older")
        older[path] = b"older"
    code, printed = start(name, run, tmp_path, limit=limit).end()
    found, small = files(tmp_path), all(len(content) <= limit for content in wanted.values())
    assert code == (0 if small else 2), printed
    if not small:
        line = rf"align-clip {COMMANDS[name][0]}: error: .*File too large.*{tmp_path}/out/"
        assert re.match(line, printed.splitlines()[-1]), printed
    assert found.keys() == older.keys() and all(content in (wanted[path], b"older") for path, content in found.items())


@pytest.mark.long
@pytest.mark.parametrize("name", COMMANDS)
def test_ended_at_every_change_of_a_file(run, whole, tmp_path, name):
    for change in range(1, whole(name)[1] + 1):
        for number in SIGNALS if name != "distill" else SIGNALS[::3]:
            interrupt(name, run, tmp_path / f"{change}-{number}", whole, change, number)
