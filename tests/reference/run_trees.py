"""Fabricated folders of runs: ours with ``results.json``, and logs as CoOp, MaPLe and PLOT leave them."""

import json
from pathlib import Path

LOG_05 = """Loading CLIP (backbone: {backbone})
epoch [1/2][5/6]\ttime 0.628 (0.896)\tdata 0.000 (0.163)\teta 0:04:24\tloss 3.6641 (4.1277)\tlr 1.000000e-05
=> result
* total: 100
* correct: 10
* accuracy: 10.00%
{end}
Do evaluation on test set
=> result
* total: 100
* correct: 93
* accuracy: {accuracy:.2f}%
* error: 6.70%
* macro_f1: 92.10%
"""
LOG_06 = """Loading CLIP (backbone: {backbone})
epoch [1/50] batch [5/6] time 0.628 (0.896) data 0.000 (0.163) loss 3.6641 (4.1277) acc 18.7500 (8.1250) lr 1.0000e-05
{end}
Deploy the last-epoch model
Evaluate on the *test* set
=> result
* total: 2,465
* correct: 2,300
* accuracy: {accuracy:.1f}%
* error: 6.7%
* macro_f1: 92.1%
Elapsed: 0:01:02
"""
LOG_TEST = """Loading CLIP (backbone: {backbone})
Evaluate on the *test* set
=> result
* total: 2,465
* accuracy: {accuracy:.1f}%
"""


def write_result(folder: Path, accuracy: float, method="ALIGN", dataset="Set", backbone="ViT-B/16", **more) -> None:
    """Write what one of our runs leaves, as far as tables read it."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"method": method, "dataset": dataset, "classes": "all", "shots": 16, "seed": 1, "backbone": backbone}
    metrics = {"test": {"accuracy": accuracy}}
    (folder / "results.json").write_text(json.dumps({**content, "metrics": metrics, **more}))


def write_log(folder: Path, accuracy: float, form: str, name="log.txt") -> None:
    """Write a log in one of the forms above."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(form.format(accuracy=accuracy, end="Finish training", backbone="ViT-B/16"))


def base2new_tree(root: Path, values, config="vit_b16_base2new") -> None:
    """Write base-to-new results: (method, dataset, seed) -> (base, new); None leaves a run out."""
    for (method, dataset, seed), pair in values.items():
        for part, accuracy in zip(("train_base", "test_new"), pair):
            if accuracy is not None:
                folder = root / "base2new" / part / dataset / "shots_16" / method / config / f"seed{seed}"
                write_result(folder, accuracy, method)
