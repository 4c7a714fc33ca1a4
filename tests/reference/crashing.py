"""Runs of train.py, and of other commands, in processes of their own that end before their time."""

import importlib
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.reference.clip_states import vit_state

PROJECT = Path(__file__).resolve().parents[2]
# Every run is forked from a server process that has imported train.py once: the import takes seconds.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["train", "torch.utils.tensorboard", "sklearn.metrics", "tests.reference.crashing"])
TRAIN, ALIGN_CLIP = "train", "prompting.__main__"  # modules with a function main
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link")


def short_run(folder: Path, *opts: str) -> list[str]:
    """Write images and a tiny CLIP to a folder, and return the words of a training on them but its output folder."""
    pixels = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(8):
            image = Image.fromarray(pixels.integers(0, 256, (24, 24, 3), dtype=np.uint8))
            image.save(folder / "photos" / name / f"{i}.png")
    torch.save(vit_state(patch=8, grid=3, vision_layers=1, text_layers=2), folder / "tiny.pt")
    words = ["--root", folder / "photos", "--trainer", "CoOp", "--seed", "1", "--backbone", folder / "tiny.pt"]
    words += ["--dataset-config-file", "configs/datasets/folder.yaml"]
    words += ["--config-file", "configs/trainers/CoOp/mini.yaml"]
    words += ["INPUT.SIZE", "(24, 24)", "OPTIM.MAX_EPOCH", "3", "DATASET.NUM_SHOTS", "2", "DATALOADER.NUM_WORKERS", "0"]
    return [*map(str, words), "DATALOADER.TRAIN_X.BATCH_SIZE", "2", "TRAINER.COOP.N_CTX", "2", *opts]


class Run:
    """A process that runs a command.

    Args:
        words: of train.py as ``short_run`` returns them, without the output folder; of other commands all.
        output: the folder that the command writes to.
        at_change: the change of a file or folder (from 1) at which the process gets a signal; 0 counts them.
        number: the signal.
        limit: largest size of a file, in bytes.
        module: the command's module.
    """

    def __init__(self, words, output, at_change=None, number=signal.SIGKILL, limit=None, module=TRAIN):
        reader, writer = SERVER.Pipe(duplex=False)
        job = words[:8] + ["--output-dir", str(output)] + words[8:] if module == TRAIN else list(map(str, words))
        self.process = SERVER.Process(target=_child, args=(job, str(output), writer, at_change, number, limit, module))
        self.process.start()
        writer.close()
        self.lines, self._reader = [], reader
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self):
        with open(os.dup(self._reader.fileno()), errors="replace") as lines:
            for line in lines:
                self.lines.append(line)

    @property
    def printed(self):
        return "".join(self.lines)

    def wait_for(self, text):
        """Wait until a text is printed."""
        while text not in self.printed:
            assert self.process.is_alive(), self.printed
            time.sleep(0.05)

    def end(self, number=None, after=None):
        """Send a signal, if one is given, ``after`` seconds or at once; return (exit code, everything printed)."""
        self.process.join(after or 0)
        if number is not None and self.process.is_alive():
            os.kill(self.process.pid, number)
        self.process.join()
        self._thread.join()
        return self.process.exitcode, self.printed


def _child(words, output, writer, at_change, number, limit, module):
    os.chdir(PROJECT)
    multiprocessing.set_start_method(None, force=True)  # of data workers; that of the server is inherited
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    for stream in (1, 2):
        os.dup2(writer.fileno(), stream)
    sys.stdout.reconfigure(line_buffering=True)  # so that output and errors keep their order
    writer.close()
    command = importlib.import_module(module)
    if module == TRAIN:
        command.collect_env_info = str  # starts processes
    torch.set_num_threads(1)
    sys.argv = [f"{module}.py", *words]
    count = 0

    def hook(event, args):
        nonlocal count
        if event not in CHANGES or not isinstance(args[0], (str, os.PathLike)) or output not in str(args[0]):
            return
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
            return
        count += 1
        if count == at_change:
            os.kill(os.getpid(), number)
            time.sleep(0.01)

    if at_change is not None:
        sys.addaudithook(hook)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    code = command.main()
    if at_change == 0:
        print(f"\nchanges: {count}")
    sys.stdout.flush()
    sys.exit(code)


def workers_of(process: int) -> list[int]:
    """Return the child processes of a process."""
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
