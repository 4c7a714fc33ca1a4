"""The documentation: commands are taken, those that need no data of others run, and links lead somewhere."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import train
from tests.reference.doc_commands import BLOCK, PAGES, PROJECT, lines, module_call
from tests.reference.parsers import parsed
from tests.reference.photos import write_photos

COMMANDS = [pytest.param(page, line, id=f"{page.stem}: {line[:60]}") for page in PAGES for line in lines(page)]
OTHERS = {"git", "cd", "source", "pip", ".venv/bin/pip", "sed"}  # programs of others
LONG = ("experiments.", "scripts.", "datasets.mini")  # modules that train for minutes, or fetch what tests have not
# needs data or weights that tests have not, or minutes
ELSEWHERE = re.compile(r"/path/to|vit_b16|\bDATA\b|\bURL\b|~/|clip distill")
PYTHON = [sys.executable, "-c", "import runpy, sys; runpy.run_module(sys.argv.pop(1), run_name='__main__')"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A checkout in which the commands work as they are written: photos, a plugin, and a run in output/first."""
    folder = tmp_path_factory.mktemp("checkout")
    for entry in PROJECT.iterdir():
        if entry.name not in ("data", "output"):
            (folder / entry.name).symlink_to(entry)
    first, *_ = write_photos(folder / "photos", classes=3, images=10)
    (folder / "holiday").mkdir()
    for copy in ("photo.jpg", "holiday/one.jpg", "holiday/two.jpg"):
        shutil.copy(first, folder / copy)
    page = (PROJECT / "docs" / "add-a-method.md").read_text()
    for language, name in (("python", "near_coop.py"), ("yaml", "near_coop.yaml")):
        (folder / name).write_text(next(block for _, kind, block in BLOCK.findall(page) if kind == language))
    return folder


@pytest.mark.parametrize("page, line", COMMANDS)
def test_a_command_is_taken(page, line, place, monkeypatch):
    monkeypatch.chdir(place)
    for command in line.split("#")[0].split("&&"):
        words = shlex.split(command)
        call = module_call(words)
        if words[0] == "make":
            targets = subprocess.run(["make", "-n", *words[1:]], cwd=PROJECT, capture_output=True, text=True)
            assert targets.returncode == 0, targets.stderr
        elif call is None:
            assert words[0] in OTHERS, f"{page.name}: no program of ours, and none that is known: {words[0]}"
        elif call[0] == "train":
            args = train.parse_args(call[1])
            if not args.model_dir:  # which takes settings from a run
                train.check_names(train.setup_cfg(args))
        else:
            parsed(*call)


def runs_here(line: str) -> bool:
    """Return whether a command needs nothing that tests have not, and little time."""
    call = None if ELSEWHERE.search(line) or line.startswith(("git", "cd ")) else module_call(line.split())
    return call is not None and not call[0].startswith(LONG) and "torchrun" not in line and "near_coop" not in line


@pytest.mark.long
def test_the_commands_of_a_run_work(place):
    """One after the other, page by page, then the Python of the start pages; what is written is there for the next."""
    train_first = (
        "python train.py --root data --seed 1 --trainer ALIGN --dataset-config-file configs/datasets/mini_source.yaml "
        "--config-file configs/trainers/ALIGN/mini.yaml --output-dir output/first DATASET.NUM_SHOTS 1"
    )
    ours = [line for page in PAGES for line in lines(page) if runs_here(line)]
    assert len(ours) > 10
    for line in dict.fromkeys([train_first, *ours]):
        module, words = module_call(shlex.split(line, comments=True))
        if module == "train" and "--eval-only" not in words:
            words += ["OPTIM.MAX_EPOCH", "1"]
        done = subprocess.run([*PYTHON, module, *words], cwd=place, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    for page in sorted((PROJECT / "docs" / "start").glob("*.md")):
        for block in (block for _, language, block in BLOCK.findall(page.read_text()) if language == "python"):
            done = subprocess.run([sys.executable, "-c", block], cwd=place, capture_output=True, text=True)
            assert done.returncode == 0, f"{page.name}\n{block}{done.stderr}"


@pytest.mark.long
def test_the_notebook_runs_from_top_to_bottom(place):
    notebook = nbformat.read(PROJECT / "docs" / "notebook.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # in the repository
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(place)}}).execute()
    shown = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output for output in shown) == 4  # three images, a plan


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    """With every page in the navigation, and no link or name of the API that leads nowhere."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for page in (PROJECT / "docs").rglob("*.md"):
        html = (tmp_path / page.relative_to(PROJECT / "docs").with_suffix(".html")).read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|link|img)[^>]* (?:src|href)="(https?:)?//', html), page


def slugs(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    titles = [re.sub(r"[^\w\- ]", "", title.lower()) for title in re.findall(r"^#+ +(.*?) *$", text, re.M)]
    return {title.replace(" ", "-") for title in titles}


def test_the_tests_that_hold_a_promise_exist():
    """In docs/reliability.md, a test without a file is one of the file named before it."""
    text, every, files = (PROJECT / "docs" / "reliability.md").read_text(), list((PROJECT / "tests").rglob("*.py")), []
    for file, test in re.findall(r"`(?=[\w/:]*test_)([\w/]+\.py)?(?:::)?(test_\w+)?`", text):
        files = [path for path in every if path.as_posix().endswith(f"/{file}")] if file else files
        assert files, file
        assert any(f"def {test}(" in path.read_text() for path in files) or not test, f"{file}::{test}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in slugs(path), f"{page.name}: {target} is none of {sorted(slugs(path))}"
