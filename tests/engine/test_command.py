"""Every command turns a mistake into one line that names what is wrong, and says nothing when its reader has gone."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from dassl.utils import NamedKeyError
from dassl.utils.command import LONGEST, Parser, command, one_line

from tests.reference.params import long_but

PROJECT = Path(__file__).resolve().parents[2]
COMMANDS = {
    "train.py": ["train.py", "--config-file", "nowhere.yaml"],
    "python -m datasets": ["-m", "datasets", "stats", "Folder", "--root", "/nowhere/at/all"],
    "python -m datasets.mini": ["-m", "datasets.mini", "--sheet", "/nowhere/at/all.png"],
    "compare": ["-m", "experiments.compare", "--methods", "ALIGNN"],
    "sweep": ["-m", "experiments.sweep", "--protocol", "xd", "--methods", "ALIGNN"],
    "tables": ["-m", "experiments.tables", "/nowhere", "--table", "xd"],
    "results": ["-m", "experiments.results", "--add", "/nowhere", "xd"],
    "protocols": ["-m", "experiments.protocols", "xd", "ALIGNN"],
}
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


def raised(error):
    """The line for an error that is raised here."""
    try:
        raise error
    except BaseException as caught:
        return one_line(caught)


def built_in(run):
    """The line for an error of a built-in function."""
    try:
        run()
    except BaseException as caught:
        return one_line(caught)


def deep(n=0):
    return deep(n + 1)


@pytest.mark.parametrize(
    "line, expected",
    [
        (raised(ValueError("the file a.csv\n  has no column path")), "the file a.csv has no column path"),
        (raised(NamedKeyError('no key "A"')), 'no key "A"'),
        (built_in(lambda: {}["epoch"]), "missing key 'epoch' (KeyError in test_command.py:"),
        (built_in(lambda: int("x")), "invalid literal for int() with base 10: 'x' (ValueError in test_command.py:"),
        (built_in(lambda: None.items()), "'NoneType' object has no attribute 'items' (AttributeError in test_command"),
        (built_in(lambda: open("/nowhere/x")), "No such file or directory: /nowhere/x"),
        (built_in(lambda: os.rename(b"/nowhere/x", b"/y")), "No such file or directory: /nowhere/x"),
        (built_in(deep), "nested too deeply maximum recursion depth exceeded"),
        (raised(MemoryError()), "out of memory (MemoryError in test_command.py:"),
        (raised(MemoryError()), "; use smaller batches, or set TRAIN.MAX_MEMORY_GB"),
        (built_in(lambda: torch.zeros(2) @ torch.zeros(3)), "(RuntimeError in test_command.py:"),
        (raised(ValueError()), "no message (ValueError in test_command.py:"),
        (raised(OSError(24, "Too many open files", "a.jpg")), "a.jpg; set DATALOADER.NUM_WORKERS 0"),
        (raised(RuntimeError("DataLoader worker (pid 7) is killed")), "killed; set DATALOADER.NUM_WORKERS 0"),
        (raised(ValueError("a\x1b[2J\udcffb")), "a\\x1b[2J\\udcffb"),
    ],
)
def test_one_line_for_every_kind(line, expected):
    assert expected in line and "\n" not in line


def test_a_message_of_a_million_characters_is_shortened():
    assert len(raised(ValueError("x" * 10**6))) < LONGEST + 10


def test_codes_and_traceback(capsys, monkeypatch):
    monkeypatch.delenv("ALIGN_TRACEBACK", raising=False)

    @command("tool", interrupted="interrupted; go on")
    def main(words):
        parser = Parser(prog="tool")
        parser.add_argument("--colour", action="store_true")
        parser.add_argument("kind", nargs="?")
        args = parser.parse_args(words)
        if args.kind:
            raise {"bad": ValueError("bad thing"), "stop": KeyboardInterrupt()}[args.kind]

    assert main([]) == 0 and capsys.readouterr() == ("", "")
    assert main(["bad"]) == 1
    assert capsys.readouterr().err == "tool: error: bad thing (--traceback shows where)\n"
    assert main(["bad", "--traceback"]) == 1
    assert capsys.readouterr().err.startswith("Traceback")
    assert main(["stop"]) == 130 and capsys.readouterr().err == "tool: interrupted; go on\n"
    for word, shown in (("--color=x y", " --color=x y; did you mean '--colour'?"), ("", "")):
        with pytest.raises(SystemExit) as caught:
            main(["bad", word])
        assert caught.value.code == 2
        line = f"tool: error: unrecognized arguments:{shown} (--help shows all flags)\n"
        assert capsys.readouterr().err == line
    monkeypatch.setattr(sys, "argv", ["tool", "bad"])
    assert main() == 1


HOOK = """
import os, signal, sys
def hook(event, args, numbers=[signal.SIGINT] * 2):
    while event == "import" and args[0] == "torch" and numbers:
        os.kill(os.getpid(), numbers.pop())
sys.addaudithook(hook)
"""
INTERRUPTED = {
    "train.py": ["train.py"],
    "python -m datasets": ["-m", "datasets", "layout", "all"],
    "python -m datasets.mini.build": ["-m", "datasets.mini.build"],
    "python -m experiments.verify": ["-m", "experiments.verify", "data"],
    "python -m experiments.report": ["-m", "experiments.report"],
    "align-clip": ["-m", "prompting", "predict"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INTERRUPTED)
def test_ctrl_c_during_the_imports(tmp_path, name):
    """Two signals while the command imports torch."""
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    env = {**ENV, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, *INTERRUPTED[name]], cwd=PROJECT, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, f"{name}: interrupted\n")


CLEANS = """
import os, signal, sys
def send():
    os.kill(os.getpid(), signal.SIGINT)
def main(words):
    try:
        send()
    except KeyboardInterrupt:
        send()
        raise ImportError("as an import that was interrupted")
    finally:
        send()
        print("cleaned")
"""
WITH = {
    "tool": "from dassl.utils.command import command\nsys.exit(command('tool')(main)([]))",
    "align-clip report": "from prompting.__main__ import commands, main as run, parser\nparser()\n"
    "commands.report.run = main\nsys.exit(run(['report', '--run', '/']))",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH)
def test_signals_while_a_command_cleans_up_do_nothing(name):
    """The first one ends the command, also as the reason of another error."""
    code = CLEANS + WITH[name]
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=ENV, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "cleaned\n", f"{name}: interrupted\n")


@pytest.mark.parametrize("words", [[], ["--traceback"]])
def test_an_error_after_ctrl_c_is_told(capsys, words):
    @command("tool")
    def main(words):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            raise OSError("no room for the results")

    assert main(words) == 130
    err = capsys.readouterr().err
    assert err.startswith("tool: interrupted; then ") and "no room for the results" in err
    assert ("Traceback" in err) == bool(words)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["-um", "datasets"], ["-mdatasets"]])
def test_a_module_runs_whatever_the_flags_of_python(flags):
    done = subprocess.run(
        [sys.executable, *flags, "layout", "dtd"], cwd=PROJECT, env=ENV, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "") and "dtd" in done.stdout


SECOND = """
import atexit, os, signal, sys, time
atexit.register(lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(0.1)))
from dassl.utils.command import command
@command("tool")
def main(words):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(9)
sys.exit(main())
"""


@pytest.mark.slow
def test_a_second_ctrl_c_while_python_ends_says_nothing():
    done = subprocess.run([sys.executable, "-c", SECOND], cwd=PROJECT, env=ENV, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "tool: interrupted\n")


@pytest.mark.slow
def test_letters_that_the_output_lacks_are_escapes():
    code = "from dassl.utils.command import command\n@command('tool')\n"
    code += "def main(words): print('1 \\xb1 2 \\udcff')\nmain([])"
    env = {**ENV, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=env, capture_output=True)
    assert done.stdout == rb"1 \xb1 2 \udcff" + b"\n" and not done.stderr, done


@pytest.mark.slow
@pytest.mark.parametrize("name", long_but(COMMANDS, "train.py", "tables"))
def test_each_command_refuses_a_mistake_in_one_line(name):
    done = subprocess.run([sys.executable, *COMMANDS[name]], cwd=PROJECT, env=ENV, capture_output=True, text=True)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 1 and lines[-1].startswith(f"{name}: error: "), done
    assert not done.stdout and "Traceback" not in done.stderr and len(lines) == 1


@pytest.mark.slow
@pytest.mark.parametrize("words", [["-m", "datasets", "layout", "all"], ["train.py", "--help"]])
def test_a_reader_that_has_gone_is_no_error(words):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, *words], cwd=PROJECT, env=ENV, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.stderr == b""
