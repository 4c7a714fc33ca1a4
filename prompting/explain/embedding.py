"""t-SNE of image features before and after tuning, as in figure 2b of the paper."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from prompting.classifier import Classifier
from prompting.explain.style import CYCLE, FAINT, MUTED, SETTINGS, heading
from prompting.methods import PromptedCLIP
from prompting.run_folder import images_of_test

BATCH = 50
COLOURS = [tone for tone in CYCLE if tone != "#999999"][:8]  # grey are the other classes
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")


@torch.no_grad()
def image_features(model: PromptedCLIP[Any], images: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit features (B, D) of images without the learned visual prompts, and with them.

    With M visual prompts the feature is the mean of the M unit features.

    Raises:
        ValueError: the method learns no visual prompts.
    """
    prompts = model.prompt_learner()
    if prompts.visual is None:
        raise ValueError(f"{model.name} learns no visual prompts, with and without which image features are compared")
    before = model.image_encoder(images).prompt
    after = model.image_encoder(images, prompts.visual, prompts.deep_visual).prompt
    first, second = (F.normalize(F.normalize(f.float(), dim=-1).mean(1), dim=-1).cpu() for f in (before, after))
    return first, second


def nearest_is_same(features: Tensor, labels: Sequence[int]) -> Tensor:
    """Return for each image whether the nearest other image, by cosine, has the same label: (B,) bool."""
    own = torch.tensor(labels)
    return own[(features @ features.T).fill_diagonal_(-2.0).argmax(1)] == own


def embedding_figure(run: Classifier, folder: Path, root: str | None, most: int) -> Figure:
    """Draw the features of the run's test images before and after tuning; the second t-SNE starts from the first.

    In colour are the classes whose images lie next to another class most often before tuning, the others are grey.

    Args:
        run: the run.
        folder: its folder, with predictions.csv.
        root: folder of the data sets, or the file of a data set in it; None takes the run's.
        most: largest number of images, evenly from the classes.

    Raises:
        FileNotFoundError: the images are not there.
        ValueError: the method learns no visual prompts, or there are fewer than five images.
    """
    from sklearn.manifold import TSNE
    from sklearn.metrics import silhouette_score

    paths, labels = images_of_test(folder, root, most)
    if len(paths) < 5:
        raise ValueError(f"there are {len(paths)} images; t-SNE needs 5 or more")
    batches = (run.preprocess.stack(paths[i : i + BATCH]) for i in range(0, len(paths), BATCH))
    parts = [image_features(run.model, images) for images in batches]
    both = [torch.cat(one) for one in zip(*parts)]
    same = [nearest_is_same(features, labels) for features in both]
    own, known = np.array(labels), sorted(set(labels))
    shares = {label: [float(one[own == label].float().mean()) for one in same] for label in known}
    shown = sorted(known, key=lambda label: shares[label][0])[: len(COLOURS)]
    with mpl.rc_context({**SETTINGS, "axes.grid": False, "axes.titlesize": 10}):
        figure = Figure(figsize=(11, 6.7), dpi=150)
        tones = "a colour and a mark for each class"
        if len(known) > len(shown):
            tones = f"in colour the {len(shown)} whose images lie next to another class most often before tuning"
        note = f"t-SNE of {len(paths)} test images of {len(known)} classes; {tones}."
        heading(figure, f"Image features of {run.settings.method}, before and after tuning", note)
        layout: Any = "pca"
        for i, (features, word) in enumerate(zip(both, ("Before", "After"))):
            # The second layout starts from the first, which early exaggeration would break up: what moves has changed.
            style: dict[str, Any] = {"init": layout, "early_exaggeration": 1.0 if i else 12.0, "random_state": 0}
            layout = TSNE(perplexity=min(30.0, (len(paths) - 1) / 3), **style).fit_transform(features.numpy())
            axes = figure.add_axes((0.02 + 0.49 * i, 0.15, 0.47, 0.71))
            title = f"{word}: the nearest image has the same class for {float(same[i].float().mean()):.1%}"
            if 1 < len(known) < len(paths):
                title += f"; silhouette {silhouette_score(features.numpy(), labels, metric='cosine'):.3f}"
            axes.set_title(title)
            x, y = layout.T
            others = ~np.isin(own, shown)
            axes.scatter(x[others], y[others], s=12, color=FAINT, linewidths=0)
            for label, tone, marker in zip(shown, COLOURS, MARKERS):
                name = f"{run.classnames[label]}: {shares[label][0]:.0%}, then {shares[label][1]:.0%}"
                style = {"color": tone, "marker": marker, "edgecolors": "white", "linewidths": 0.5}
                axes.scatter(x[own == label], y[own == label], s=42, label=name, **style)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set(visible=True, color=MUTED, linewidth=0.6)
        title = "Share whose nearest image has the same class, before and after tuning"
        figure.legend(*axes.get_legend_handles_labels(), loc="lower center", ncols=4, title=title, fontsize=9)
    return figure
