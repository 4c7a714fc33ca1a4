"""t-SNE of image features before and after tuning, as in figure 2b of the paper."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from prompting.classifier import Classifier
from prompting.explain.style import INK, MUTED, SETTINGS, colour
from prompting.methods import PromptedCLIP
from prompting.run_folder import images_of_test

BATCH = 50
MARKERS = ("o", "^", "s", "D", "v", "P")
NAMED = 40  # classes whose names are written, at most


@torch.no_grad()
def image_features(model: PromptedCLIP[Any], images: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit features (B, D) of images without the learned visual prompts, and with them.

    With M visual prompts the feature is the mean of the M unit features.

    Raises:
        ValueError: the method learns no visual prompts.
    """
    learner = getattr(model, "prompt_learner", None)
    prompts = learner() if learner is not None else None
    if prompts is None or prompts.visual is None:
        name = model.name or type(model).__name__
        raise ValueError(f"{name} learns no visual prompts, with and without which image features are compared")
    before = model.image_encoder(images).prompt
    after = model.image_encoder(images, prompts.visual, prompts.deep_visual).prompt
    first, second = (F.normalize(F.normalize(f.float(), dim=-1).mean(1), dim=-1).cpu() for f in (before, after))
    return first, second


def neighbour_accuracy(features: Tensor, labels: Sequence[int]) -> float:
    """Return the share of images whose nearest other image, by cosine, has the same label."""
    similarity = (features @ features.T).fill_diagonal_(-2.0)
    own = torch.tensor(labels)
    return float((own[similarity.argmax(1)] == own).float().mean())


def embedding_figure(run: Classifier, folder: Path, root: Path, *, most: int = 1000, seed: int = 0) -> Figure:
    """Draw the features of the run's test images before and after tuning, each with its own t-SNE.

    Args:
        run: the run.
        folder: its folder, with predictions.csv.
        root: folder of the data sets, or the file of a data set in it.
        most: largest number of images, evenly from the classes.
        seed: of t-SNE.

    Raises:
        FileNotFoundError: the images are not there.
        ValueError: the method learns no visual prompts, or there are fewer than five images.
    """
    from sklearn.manifold import TSNE

    place = Path(os.path.expanduser(root))
    paths, labels = images_of_test(folder, place.parent if place.is_file() else place, most)
    if len(paths) < 5:
        raise ValueError(f"there are {len(paths)} images; t-SNE needs 5 or more")
    parts = []
    for start in range(0, len(paths), BATCH):
        crops = map(run.preprocess.read, paths[start : start + BATCH])
        parts.append(image_features(run.model, torch.stack([run.preprocess(crop) for crop in crops])))
    with mpl.rc_context({**SETTINGS, "axes.grid": False, "axes.titlesize": 11}):
        layout = ConstrainedLayoutEngine(w_pad=0.13, h_pad=0.1)
        figure = Figure(figsize=(11, 5.7), dpi=150, layout=layout)
        for axes, features, title in zip(figure.subplots(1, 2), map(torch.cat, zip(*parts)), ("Before", "After")):
            tsne = TSNE(perplexity=min(30.0, (len(paths) - 1) / 3), init="pca", random_state=seed)
            share = neighbour_accuracy(features, labels)
            _scatter(axes, tsne.fit_transform(features.numpy()), labels, run.classnames)
            axes.set_title(f"{title} tuning: the nearest image has the same class for {share:.0%}")
        number = len(set(labels))
        some = f", {NAMED} of {number} classes are named" if number > NAMED else ""
        title = f"Image features of CLIP and of {run.settings.method} (t-SNE, {len(paths)} test images{some})"
        figure.suptitle(title, x=0.012, ha="left", weight="bold", size=13)
    return figure


def _scatter(axes: Axes, points: np.ndarray[Any, Any], labels: Sequence[int], classnames: Sequence[str]) -> None:
    """Draw points with a colour and marker for each class, and its name at its median."""
    own, known = np.array(labels), sorted(set(labels))
    for i, label in enumerate(known):
        x, y = points[own == label].T
        axes.scatter(x, y, s=16, color=colour(i), marker=MARKERS[(i // 10) % len(MARKERS)], linewidths=0, alpha=0.7)
    named = known[:NAMED]
    places = spread(np.array([np.median(points[own == label], axis=0) for label in named]), np.ptp(points, axis=0))
    for i, (label, (x, y)) in enumerate(zip(named, places)):
        box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": colour(i), "alpha": 0.8, "lw": 1}
        axes.text(x, y, classnames[label], size=7, color=INK, ha="center", va="center", bbox=box)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color=MUTED, linewidth=0.6)


def spread(places: np.ndarray[Any, Any], extent: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return places (n, 2) moved up and down until labels there do not overlap, or nearly so."""
    moved, (width, height) = places.copy(), extent * (0.14, 0.032)
    for _ in range(60):
        for i in range(len(moved)):
            for k in range(i):
                gap = moved[i] - moved[k]
                if abs(gap[0]) < width and (overlap := height - abs(gap[1])) > 0:
                    shift = overlap / 2 * (1 if gap[1] >= 0 else -1)
                    moved[i, 1] += shift
                    moved[k, 1] -= shift
    return moved
