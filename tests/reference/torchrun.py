"""Starts a program in two processes on this machine, as ``torchrun`` does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

PROJECT = Path(__file__).resolve().parents[2]
SECONDS = 300  # time limit
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def torchrun(words: list[str], folder: Path, begun: Path) -> str:
    """Run the program until it ends, and return its standard output.

    Output goes to files: a pipe ends only with the last process that holds it. If the program hangs, the error has
    the stack of every thread of its processes. A launch that hangs before the program has made ``begun`` is repeated
    once: it is torch's, not the project's.

    Args:
        words: words of the command after those of the launcher.
        folder: folder for the output.
        begun: a path that the program makes early.

    Raises:
        AssertionError: the program failed, or did not end in time.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    for launch in (1, 2):
        out, err = folder / f"out{launch}.txt", folder / f"err{launch}.txt"
        with out.open("w") as stdout, err.open("w") as stderr:
            process = subprocess.Popen([*LAUNCHER, *words], cwd=PROJECT, env=env, stdout=stdout, stderr=stderr)
            try:
                assert process.wait(SECONDS) == 0, err.read_text()
                return out.read_text()
            except subprocess.TimeoutExpired:
                everyone = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
                for one in everyone:
                    one.send_signal(signal.SIGABRT)  # faulthandler prints the stacks
                psutil.wait_procs(everyone, 20)
        if begun.exists():
            break
    raise AssertionError(f"the processes did not end within {SECONDS} s: {err.read_text()}")
