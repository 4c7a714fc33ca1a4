"""What is logged and printed reaches console and file, once, and the console is left as it was."""

import contextlib
import io
import logging
import os
import subprocess
import sys

import pytest
from dassl.utils import progress, setup_logger

logger = logging.getLogger("dassl.some.module")


def test_lines_reach_console_and_file_once_and_in_order(tmp_path, capsys):
    with setup_logger(str(tmp_path)) as log:
        logger.info("from the engine")
        print("from a plugin", 1, end="\n\n")
        logging.getLogger("elsewhere").warning("from a library")
        logging.getLogger("elsewhere").info("too quiet to be heard")
        print("no line end", end="")
    assert log.path == str(tmp_path / "log.txt")
    wanted = "from the engine\nfrom a plugin 1\n\nfrom a library\nno line end"
    assert (tmp_path / "log.txt").read_text() == wanted
    assert capsys.readouterr().out == wanted


def test_a_second_log_appends_and_doubles_no_line(tmp_path, capsys):
    setup_logger(str(tmp_path))
    logger.info("one")
    setup_logger(str(tmp_path))
    setup_logger(str(tmp_path))
    logger.info("two")
    print("three")
    assert capsys.readouterr().out == (tmp_path / "log.txt").read_text() == "one\ntwo\nthree\n"
    assert [path.name for path in tmp_path.iterdir()] == ["log.txt"]


def test_a_log_that_waits_makes_no_folder_and_prints_warnings_only(tmp_path, capsys):
    folder = tmp_path / "run"
    with setup_logger(str(folder), wait=True) as log:
        logger.info("loading")
        logger.warning("careful")
        print("from a plugin")
        assert not folder.exists() and capsys.readouterr().out == "careful\n"
        log.open()
        logger.info("training")
    assert (folder / "log.txt").read_text() == "loading\ncareful\nfrom a plugin\ntraining\n"
    assert capsys.readouterr().out == "training\n"
    with pytest.raises(ValueError), setup_logger(str(tmp_path / "other"), wait=True):
        raise ValueError("no such data")
    assert not (tmp_path / "other").exists()


PROGRAM = """
import logging, sys
from dassl.utils import setup_logger
with setup_logger(sys.argv[1]):
    for i in range(30):
        logging.getLogger("dassl.some.module").info(f"line {i}")
        print(f"and {i}", flush=True)
"""


@pytest.mark.slow
def test_a_run_whose_console_has_gone_goes_on_in_its_file(tmp_path):
    """As under ``| head``."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "log.txt").read_text() == "".join(f"line {i}\nand {i}\n" for i in range(30))


def test_closing_gives_the_console_back(tmp_path, capsys):
    before, handlers = sys.stdout, list(logging.getLogger().handlers)
    log = setup_logger(str(tmp_path / "some.log"))
    tee = sys.stdout
    log.close()
    assert sys.stdout is before and logging.getLogger().handlers == handlers
    tee.write("late\n")  # whoever kept the stream can still write
    print("console is open")
    assert capsys.readouterr().out == "late\nconsole is open\n"
    assert (tmp_path / "some.log").read_text() == ""


@pytest.mark.parametrize(("wish", "shown"), [("1", True), ("0", False), ("", False)])
def test_bars_show_when_asked(wish, shown, monkeypatch, capsys):
    monkeypatch.setenv("DASSL_PROGRESS", wish)
    assert list(progress(range(3))) == [0, 1, 2]
    out, err = capsys.readouterr()
    assert ("3/3" in err) == shown and out == ""


@pytest.mark.parametrize("with_file", [True, False])
def test_lines_stand_apart_from_a_bar(tmp_path, monkeypatch, with_file):
    terminal = io.StringIO()  # shows both streams, as a terminal does
    monkeypatch.setenv("DASSL_PROGRESS", "1")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stderr", terminal)
    with setup_logger(str(tmp_path)) if with_file else contextlib.nullcontext():
        for _ in progress(range(2), mininterval=0):
            logger.info("a line")
            if with_file:
                print("another")
    wanted = ["a line", "another"] * 2 if with_file else ["a line"] * 2
    seen = [line.rsplit("\r", 1)[-1] for line in terminal.getvalue().split("\n")]  # what a line ends up showing
    assert [line for line in seen if "it/s" not in line and line] == wanted
    assert "2/2" in terminal.getvalue()
    if with_file:
        assert (tmp_path / "log.txt").read_text().splitlines() == wanted


HELD = """
import os, sys, threading
from dassl.utils import setup_logger
from tqdm import tqdm
setup_logger(sys.argv[1])
held, end = threading.Event(), threading.Event()
def hold():
    with tqdm.get_lock():
        held.set()
        end.wait()
threading.Thread(target=hold).start()
held.wait()
child = os.fork()
if child == 0:
    print("from the child")
    sys.stdout.flush()
    os._exit(0)
os.waitpid(child, 0)
end.set()
"""


@pytest.mark.slow
def test_a_worker_prints_while_its_parent_holds_the_lock_of_the_bars(tmp_path):
    words = ["-W", "ignore::DeprecationWarning", "-c", HELD, str(tmp_path)]  # of a fork beside a thread, as meant here
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "from the child\n", "")
