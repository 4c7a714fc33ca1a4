"""Limits of the system that are too small for worker processes are named before the training."""

import multiprocessing
import resource
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from dassl.data import DataManager
from dassl.data.loader import SharedBytes, end_quietly
from dassl.utils.stopping import SIGNALS, end_workers

WORDS = ["DATALOADER.TRAIN_X.BATCH_SIZE", 4, "DATALOADER.NUM_WORKERS"]


def test_too_few_open_files(make_cfg, monkeypatch):
    limits, raised = [100, 120], []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, values: raised.append(values))
    with pytest.raises(ValueError, match=r"may open 120 files, 6 workers .*; set DATALOADER.NUM_WORKERS 0.*ulimit -n"):
        DataManager(make_cfg(*WORDS, 6))
    assert not raised
    limits[1] = resource.RLIM_INFINITY
    DataManager(make_cfg(*WORDS, 6))
    assert raised and all(soft > 120 and hard == resource.RLIM_INFINITY for soft, hard in raised)
    limits[:] = [resource.RLIM_INFINITY] * 2
    raised.clear()
    DataManager(make_cfg(*WORDS, 6))
    limits[:] = [50, 50]
    DataManager(make_cfg(*WORDS, 0))
    assert not raised


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm")
def test_too_little_shared_memory(make_cfg, monkeypatch):
    need = 2 * 2 * 4 * 3 * 8 * 8 * 4 + 2**18  # workers, batches ahead, images, floats
    free = SimpleNamespace(free=need - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(ValueError, match="/dev/shm has 0.3 MiB free, 2 workers .*; set DATALOADER.NUM_WORKERS 0"):
        DataManager(make_cfg(*WORDS, 2, "DATALOADER.TEST.BATCH_SIZE", 4))
    free.free = need
    DataManager(make_cfg(*WORDS, 2, "DATALOADER.TEST.BATCH_SIZE", 4))
    free.free = 0
    DataManager(make_cfg(*WORDS, 0))


def test_without_workers_the_cache_needs_no_lock_of_the_system(monkeypatch):
    def semaphore(*args, **options):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", semaphore)
    memory = SharedBytes(100, processes=False)
    with memory.used.get_lock():
        memory.used.value += 3
    assert memory.used.value == 3
    with pytest.raises(OSError):
        SharedBytes(100)


@pytest.mark.slow
def test_a_run_with_few_files_ends_with_one_line(tiny_root):
    """Before, it waited for ever: the thread that hands a batch over had died in the worker."""
    code = f"""
import resource, tests.reference.tiny as tiny
from dassl.data import DataManager
import dassl.data.transforms
resource.setrlimit(resource.RLIMIT_NOFILE, (22, 22))
cfg = tiny.tiny_cfg({tiny_root!r}, "out", "DATALOADER.NUM_WORKERS", 2, "DATALOADER.TRAIN_X.BATCH_SIZE", 4)
for batch in DataManager(cfg).train_loader_x:
    pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "set DATALOADER.NUM_WORKERS 0" in done.stderr.splitlines()[-1]


def test_ending_workers_leaves_the_handler_of_ended_children():
    def ended(number, frame):
        pass

    numbers = [*SIGNALS, signal.SIGCHLD]
    before = {number: signal.getsignal(number) for number in numbers}
    worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    worker.start()
    try:
        signal.signal(signal.SIGCHLD, ended)
        end_workers()
        assert worker.exitcode == -signal.SIGKILL and signal.getsignal(signal.SIGCHLD) is ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_worker_whose_main_process_has_gone_says_nothing(monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    end_quietly(0)
    for error, said in ((BrokenPipeError(), ""), (KeyError("lost"), "KeyError: 'lost'\n")):
        sys.excepthook(type(error), error, None)
        assert capsys.readouterr().err == said
