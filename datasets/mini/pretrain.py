"""Pre-train the mini CLIP on the pictures that the benchmark does not use.

    python -m datasets.mini.pretrain --stages 1
    python -m datasets.mini.pretrain --evaluate --probe

Goes on where it stopped: inside a stage from a checkpoint in the cache, otherwise from the float16 weights in
``assets/mini_world``, which the end of a stage writes. ``--evaluate`` prints zero-shot accuracy instead.
"""

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from dassl.utils import write_atomically
from dassl.utils.command import Parser, command
from open_clip import SimpleTokenizer
from torch import nn
from tqdm import tqdm

from .captions import all_texts
from .evaluate import evaluate, load_whole
from .pack import SUMS, WORLD, write_sums
from .pretraining_pack import Pack, default_folder, read_pack
from .sampling import Batches
from .stages import STAGES, Chunks, Stage, between, groups, kept_patches, rate_at, step_captions, step_names
from .suite import read_suite
from .towers import SHAPE, Words, build, load, read_notes, save
from .vocabulary import tokens_of

log = logging.getLogger("datasets.mini.pretrain")
DECAY = 0.05
LARGEST_SCALE = 100.0


class Run:
    """The training of one stage on the pictures of ``pack``; ``args`` is the command line, with the CLIP's shape."""

    def __init__(self, stage: Stage, pack: Pack, args: argparse.Namespace) -> None:
        self.stage, self.pack, self.args = stage, pack, args
        self.weights = args.out / "mini_clip.safetensors"
        self.checkpoint = args.work / f"{stage.name}.pt"
        number = STAGES.index(stage)
        self.batches = Batches(pack, stage.batch, stage.least, args.seed, number, args.device)
        self.step, self.longest, self.seconds = 0, 0, 0.0
        if number == 0:
            used = tokens_of(all_texts(pack.names, pack.said), SimpleTokenizer())
            self.model = build(len(used), args.seed, args.shape)
        else:
            self.model, used, notes = load(self.weights, args.shape)
            self.longest = notes["longest"]
            if notes["stage"] == stage.name:  # weights from within the stage: the optimizer has no state
                self.step = notes["step"]
        self.words = Words(used)
        self.model.to(args.device).train()
        width = self.model.visual.proj.shape[1]
        self.head = None if stage.captions else nn.Linear(width, len(pack.names)).to(args.device)
        modules = [m for m in (self.model, self.head) if m is not None]
        self.optimizer = torch.optim.AdamW(groups(modules, DECAY), lr=0.0, betas=(0.9, 0.98), eps=1e-6, fused=True)
        threads, chunk = (args.threads, args.chunk) if args.device == "cpu" else (1, stage.batch)
        self.chunks = Chunks(threads, chunk, args.autocast, args.device)
        if self.checkpoint.exists():
            self._resume()

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.args.device, weights_only=True)
        if state["pack"] != self.pack.digest:
            raise ValueError(f"{self.checkpoint} was trained on other pictures than {self.args.pictures}: move it away")
        self.model.load_state_dict(state["model"])
        if self.head is not None:
            self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.longest, self.seconds = state["step"], state["longest"], state["seconds"]
        log.info("stage %s goes on from step %d of %d", self.stage.name, self.step, self.stage.steps)

    def keep(self) -> None:
        """Write the checkpoint and, in the same folder, the present weights for ``--evaluate``."""
        head = None if self.head is None else self.head.state_dict()
        state = {"model": self.model.state_dict(), "head": head, "optimizer": self.optimizer.state_dict(),
                 "step": self.step, "longest": self.longest, "seconds": self.seconds,
                 "pack": self.pack.digest}  # fmt: skip
        write_atomically(str(self.checkpoint), lambda part: torch.save(state, part))
        self.export(self.checkpoint.with_suffix(".safetensors"), done=False)

    def export(self, path: Path, done: bool) -> None:
        """Write the weights in float16, with the name of the stage that they have come through or are in."""
        notes = {"stage": self.stage.name, "done": done, "step": self.step}
        save(self.model.cpu(), self.words.used, self.longest, path, notes)
        if path.with_name(SUMS).is_file():
            write_sums(path.parent)
        self.model.to(self.args.device)

    def one_step(self) -> tuple[float, float]:
        """Train on the next batch; return the loss and the accuracy in the batch in percent."""
        stage, progress = self.stage, self.step / self.stage.steps
        batch = self.batches(self.step, between(stage.free, progress))
        side = self.model.visual.conv1.weight.shape[-1]
        kept = kept_patches(batch.pixels, side, stage.kept, [self.args.seed, self.step])
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(stage, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        if self.head is not None:
            loss, right = step_names(self.model, self.head, batch, kept, self.chunks)
        else:
            loss, right, length = step_captions(self.model, self.words, batch, kept, self.chunks)
            self.longest = max(self.longest, length)
        nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], 1.0)
        self.optimizer.step()
        with torch.no_grad():
            low, high = torch.tensor([between(stage.floor, progress), LARGEST_SCALE]).log().tolist()
            self.model.logit_scale.clamp_(low, high)
        self.step += 1
        return loss, right

    def train(self, limit: int | None = None) -> None:
        """Train to the end of the stage, or for ``limit`` steps; write log, checkpoints and at the end weights."""
        last = self.stage.steps if limit is None else min(self.stage.steps, self.step + limit)
        steps = range(self.step, last)
        sums: list[tuple[float, float]] = []
        self.args.out.mkdir(parents=True, exist_ok=True)
        marked = time.time()
        with open(self.args.out / "train_log.jsonl", "a", encoding="utf-8") as record:
            bar = tqdm(steps, f"stage {self.stage.name}", initial=self.step, total=self.stage.steps, mininterval=30)
            for _ in bar:
                sums.append(self.one_step())
                if self.step % self.args.log_every == 0 or self.step == last:
                    passed, marked = time.time() - marked, time.time()
                    self.seconds += passed
                    loss, right = (sum(column) / len(sums) for column in zip(*sums))
                    line = {"stage": self.stage.name, "step": self.step, "pictures": self.step * self.stage.batch,
                            "loss": round(loss, 4), "right": round(right, 2),
                            "scale": round(self.model.logit_scale.exp().item(), 2),
                            "pictures_per_second": round(len(sums) * self.stage.batch / passed, 1),
                            "minutes": round(self.seconds / 60, 1)}  # fmt: skip
                    record.write(json.dumps(line) + "\n")
                    record.flush()
                    bar.set_postfix(loss=line["loss"], right=line["right"])
                    sums = []
                if self.step % self.args.save_every == 0 or self.step == last:
                    self.keep()
        if self.step == self.stage.steps:
            self.export(self.weights, done=True)


def next_stage(weights: Path) -> Stage | None:
    """Return the stage to train: the one that the weights are in, or the next if they are through; None after all."""
    if not weights.is_file():
        return STAGES[0]
    notes = read_notes(weights)
    names = [stage.name for stage in STAGES]
    after = names.index(notes["stage"]) + notes["done"]
    return STAGES[after] if after < len(STAGES) else None


def arguments() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = Parser(prog="python -m datasets.mini.pretrain", doc=__doc__)
    add = parser.add_argument
    add("--evaluate", action="store_true", help="print zero-shot accuracy of the weights on every set")
    add("--probe", action="store_true", help="with --evaluate: a linear probe on the base classes as well")
    add("--weights", type=Path, help="with --evaluate: weights other than those of the last stage")
    add("--result", type=Path, help="with --evaluate: JSON file to write")
    add("--stages", type=int, default=len(STAGES), help="largest number of stages to train now")
    add("--output-dir", "--out", dest="out", type=Path, default=WORLD, help="folder of the weights and the log")
    add("--work", type=Path, default=default_folder() / "checkpoints", help="folder of checkpoints")
    add("--pictures", type=Path, default=default_folder(), help="folder of the pre-training pictures")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device")
    add("--threads", type=int, default=os.cpu_count() or 1, help="threads on a CPU")
    add("--chunk", type=int, default=64, help="pictures that a thread of a CPU computes at once")
    add("--autocast", choices=("none", "bfloat16"), default="bfloat16", help="type of matrix products")
    add("--seed", type=int, default=1, help="random seed")
    add("--save-every", type=int, default=50, metavar="STEPS", help="steps between checkpoints")
    add("--log-every", type=int, default=25, metavar="STEPS", help="steps between lines of the log")
    return parser


@command("python -m datasets.mini.pretrain")
def main(words: Sequence[str]) -> None:
    """Train the stages that are missing, or evaluate."""
    args = arguments().parse_args(words)
    args.autocast, args.shape = {"none": None, "bfloat16": torch.bfloat16}[args.autocast], SHAPE
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    weights = args.out / "mini_clip.safetensors"
    if args.evaluate:
        evaluate(load_whole(args.weights or weights), read_suite(), args.probe, args.result)
        return
    torch.set_num_threads(1 if args.device == "cpu" else args.threads)
    if args.device == "cpu":  # with 33 tokens, flash attention is slower (assets/mini_world/trials.jsonl)
        torch.backends.cuda.enable_flash_sdp(False)  # of CPUs as well, despite its name
    args.work.mkdir(parents=True, exist_ok=True)
    pack = read_pack(args.pictures)
    for _ in range(args.stages):
        stage = next_stage(weights)
        if stage is None:
            log.info("all stages are done")
            return
        Run(stage, pack, args).train()


if __name__ == "__main__":
    sys.exit(main())
