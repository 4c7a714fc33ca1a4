"""``report``: its numbers from the definition, and its pages in a browser without a network."""

import functools
import hashlib
import html
import json
import re
import shutil
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from experiments.report import __main__ as report
from experiments.report.compare_images import changed_images
from experiments.report.compare_page import _dots, _size, accuracies
from experiments.report.drawing import chart
from experiments.report.reading import class_table, mistakes, read_run
from experiments.report.run_page import confusion_matrix
from tests.reference.run_folders import CLASSES, tiny_clip, write_run

GUESSES = [0, 0, 1, 0, 1, 1, 1, 2, 2, 2, 2, 2]
OTHER = [0, 0, 0, 2, 1, 1, 0, 1, 2, 2, 2, 1]
SMALL = ("TRAINER.ALIGN.TEXT_PROMPT_DEPTH", 2, "TRAINER.ALIGN.VISION_PROMPT_DEPTH", 2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run of ALIGN and one of CoOp."""
    root = tmp_path_factory.mktemp("report")
    clip = tiny_clip(root)
    write_run(root / "runs" / "first", "ALIGN", clip, root, GUESSES, *SMALL)
    write_run(root / "runs" / "second", "CoOp", clip, root, OTHER, "TRAINER.COOP.N_CTX", 2)
    return root / "runs"


def test_classes_and_confusions_are_counted(runs):
    run = read_run(runs / "first")
    assert run.confusion.tolist() == [[3, 1, 0], [0, 3, 1], [0, 0, 4]]
    table = class_table(run).set_index("name")
    assert table["accuracy"].tolist() == [75, 75, 100] and table["precision"].tolist() == [100, 75, 80]
    assert table["taken_for"].tolist() == [CLASSES[1], CLASSES[2], ""] and table["times"].tolist() == [1, 1, 0]
    assert mistakes(run)["path"].tolist() == ["pictures/0/2.png", "pictures/1/3.png"]  # the most confident first
    cells = {(one["row"], one["column"]): one["count"] for one in confusion_matrix(run)["cells"]}
    assert cells == {(0, 0): 3, (0, 1): 1, (1, 1): 3, (1, 2): 1, (2, 2): 4}


def test_fixed_and_broken_images(runs):
    found = changed_images("all", {name: read_run(runs / name) for name in ("first", "second")}, most=3)
    assert found["rows"] == [
        {"method": "first", "right": 10, "fixed": 0, "broken": 0},
        {"method": "second", "right": 9, "fixed": 2, "broken": 3},
    ]
    assert found["disagreed"] == 5 and found["total"] == 12 and len(found["images"]) == 3
    assert changed_images("all", {"first": read_run(runs / "first")}, most=3) == {}


def test_h_is_the_mean_of_the_harmonic_means_of_seeds():
    rows = [("A", "base", 1, 80.0), ("A", "new", 1, 40.0), ("A", "base", 2, 60.0), ("A", "new", 2, 60.0)]
    rows.append(("B", "base", 1, 70.0))
    table = pd.DataFrame(rows, columns=["method", "part", "seed", "accuracy"]).assign(dataset="d", shots=16)
    found = accuracies(table.assign(setting=table["part"])).set_index(["method", "column"])
    h = [2 * 80 * 40 / 120, 60]
    assert found.loc[("A", "H"), "mean"] == pytest.approx(sum(h) / 2)
    assert found.loc[("A", "H"), "std"] == pytest.approx(abs(h[0] - h[1]) / 2)
    assert ("B", "H") not in found.index and found.loc[("A", "base"), "mean"] == 70


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("settings", [1, 3, 12])
def test_a_legend_of_many_settings_leaves_room_for_the_axes(settings):
    names = [f"describable_textures, {i} shots, all" for i in range(settings)]
    wide = pd.DataFrame({"method": "CoOp", "column": names, "mean": 50.0, "std": 1.0})
    figure = Figure(_size(wide), layout="constrained")
    _dots(figure.subplots(), wide, ["CoOp"])
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().width > 0.5


def test_a_chart_takes_the_colours_of_the_page():
    svg = chart(lambda axes: axes.plot([0, 1], [2, 3]), "a line")
    assert svg.startswith("<svg") and 'aria-label="a line"' in svg and "var(--muted)" in svg
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", svg)


def test_the_page_of_a_run(runs, call_main, tmp_path):
    page = tmp_path / "page.html"
    code, out, err = call_main(report, "--run", runs / "first", "--output-file", page)
    assert (code, out.strip(), err) == (0, str(page), "")
    text = page.read_text()
    assert html.escape(CLASSES[1]) in text and CLASSES[1] not in text  # names are data, not markup
    assert text.count('<article class="card"') == 2 and text.count('<table class="plan"') == 4
    assert "83.33%" in text and "2 of 12 images (16.7%) are wrong" in text
    shapes = re.findall(r'(?:src|href)="([^"#]*)"', text)
    assert shapes and all(one.startswith("data:") for one in shapes)


@pytest.mark.slow
def test_missing_images_and_models_are_named_in_the_page(runs, call_main, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs / "first", folder)
    assert call_main(report, "--run", folder, "--root", tmp_path / "nowhere")[0] == 0
    assert "12 of 12 images were not found" in (folder / "report.html").read_text()
    run = json.loads((folder / "run.json").read_text())
    moved = {"backbone_file": "/moved.pt", "backbone": "/moved.pt"}
    (folder / "run.json").write_text(json.dumps({**run, "model": {**run["model"], **moved}}))
    for words, there in (((), False), (("--backbone", run["model"]["backbone_file"]), True)):
        assert call_main(report, "--run", folder, *words)[0] == 0
        assert ('<table class="plan"' in (folder / "report.html").read_text()) == there
    shutil.rmtree(folder / "MultiModalPromptLearner")
    assert call_main(report, "--run", folder)[0] == 0
    assert "The plans of the wrong images are left out: " in (folder / "report.html").read_text()


def test_an_image_whose_name_is_not_utf8_is_shown(runs, call_main, tmp_path):
    folder, picture = tmp_path / "run", tmp_path / "pictures/0/2.png"
    for source, copy in ((runs / "first", folder), (runs.parent / "pictures", tmp_path / "pictures")):
        shutil.copytree(source, copy)
    picture.rename(picture.with_name("\udcff.png"))
    table = (folder / "predictions.csv").read_bytes()
    (folder / "predictions.csv").write_bytes(table.replace(b"0/2.png", b"0/\xff.png"))
    code, _, err = call_main(report, "--run", folder, "--root", tmp_path)
    assert code == 0, err
    text = (folder / "report.html").read_text()
    assert "pictures/0/\\udcff.png" in text and "images were not found" not in text


def test_a_torn_table_of_predictions_is_refused(runs, call_main, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs / "first", folder)
    table, results = folder / "predictions.csv", json.loads((folder / "results.json").read_text())
    results["files"] = {"predictions.csv": hashlib.sha256(table.read_bytes()).hexdigest()}
    (folder / "results.json").write_text(json.dumps(results))
    assert len(read_run(folder).predictions) == len(read_run(runs / "first").predictions)
    table.write_bytes(b"".join(table.read_bytes().splitlines(True)[:-1]))
    code, _, err = call_main(report, "--run", folder)
    assert code == 1 and f"{table} is damaged" in err and err.count("\n") == 1
    assert not (folder / "report.html").exists()


def test_what_is_no_run_is_refused_in_one_line(runs, call_main, tmp_path):
    (tmp_path / "empty").mkdir()
    for words, message in (
        (("--run", tmp_path / "empty"), "has no results.json"),
        (("--compare", tmp_path / "empty"), "there is no tested run below"),
        (("--run", runs / "first", "--most", -1), "--most is -1; allowed: 0 or more"),
    ):
        code, out, err = call_main(report, *words)
        assert code == 1 and err.startswith("report: error: ") and message in err and err.count("\n") == 1
        assert not list((tmp_path / "empty").iterdir())


@pytest.fixture
def browser():
    """A headless Chromium that logs its console and every request; skipped where there is none."""
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="the browser tests need selenium (pip install selenium)"
    )
    programs = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    driver = shutil.which("chromedriver")
    if not any(programs) or not driver:
        pytest.skip("no Chromium with chromedriver here; on Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, programs))
    with tempfile.TemporaryDirectory() as profile:
        for flag in (
            "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
            "disable-component-update", "disable-sync", "hide-scrollbars", f"user-data-dir={profile}",
        ):  # fmt: skip
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        chromium = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        yield chromium
        chromium.quit()


def requests(browser):
    """The addresses that the browser has asked for since the last call, without embedded data."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [url for url in sent if not url.startswith("data:")]


def resize(browser, width, dark=False):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    still = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme + still})


@pytest.mark.long
def test_the_pages_in_a_browser(runs, call_main, browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    assert call_main(report, "--run", runs / "first")[0] == 0
    assert call_main(report, "--compare", runs)[0] == 0
    find = functools.partial(browser.find_elements, By.CSS_SELECTOR)
    for page in (runs / "first" / "report.html", runs / "report.html"):
        browser.get("about:blank")
        requests(browser)  # forgets those of the browser's start page
        browser.get(page.as_uri())
        for width in (1280, 400):
            resize(browser, width)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width, f"{page} is too wide"
        resize(browser, 1280)
        images = "return [...document.images].filter(i => !(i.loading = 'eager', i.complete && i.naturalWidth)).length"
        assert find("svg") and browser.execute_script(images) == 0
        for link in find("nav a"):
            browser.execute_script("window.scrollTo(0, 0)")
            link.click()
            heading = browser.find_element(By.ID, browser.current_url.split("#")[1])
            assert 0 <= browser.execute_script("return arguments[0].getBoundingClientRect().top", heading) < 900
        for table in find("table.sortable"):
            check_sorting(browser, table)
        paper = "return getComputedStyle(document.body).backgroundColor"
        light = browser.execute_script(paper)
        resize(browser, 1280, dark=True)
        assert browser.execute_script(paper) != light
        assert requests(browser) == [page.as_uri()]  # nothing else was loaded
        assert browser.get_log("browser") == []
    assert [Path(link.get_attribute("href")[7:]) for link in find("#run-table a")] == [runs / "first" / "report.html"]
    find("#run-table a")[0].click()
    assert browser.title == "ALIGN on Tiny"
    Select(browser.find_element(By.CSS_SELECTOR, "select")).select_by_visible_text(CLASSES[0])
    assert [card.is_displayed() for card in find("#gallery .card")] == [True, False]
    assert browser.get_log("browser") == []


def check_sorting(browser, table):
    """Two clicks on each heading sort the rows one way and the other."""
    from selenium.webdriver.common.by import By

    browser.execute_script("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    for i, head in enumerate(table.find_elements(By.CSS_SELECTOR, "th")):
        if not head.find_elements(By.TAG_NAME, "button"):
            continue
        seen = []
        for _ in range(2):
            browser.execute_script("arguments[0].click()", head.find_element(By.TAG_NAME, "button"))
            column = browser.execute_script(
                "return [...arguments[0].tBodies[0].rows].map(r => r.cells[arguments[1]].dataset.value ?? "
                "r.cells[arguments[1]].textContent.trim())", table, i,
            )  # fmt: skip
            filled = [value for value in column if value != ""]
            assert column[: len(filled)] == filled  # empty cells last
            numeric = "n" in head.get_attribute("class").split()
            values = [float(value) for value in filled] if numeric else [value.lower() for value in filled]
            descending = head.get_attribute("aria-sort") == "descending"
            if numeric:
                assert values == sorted(values, reverse=descending)
            seen.append(values)
        assert seen[0] == seen[1][::-1] or len(set(seen[0])) < len(seen[0])
