"""PLOT++ for Dassl."""

from pathlib import Path

from prompting.methods import plotpp
from prompting.run_folder import checkpoint_path
from trainers.trainer import PromptTrainer, register


@register
class PLOTPP(PromptTrainer):
    """Learns M visual and N text prompts, which are matched by optimal transport."""

    model_class = plotpp.PLOTPP
    node = "PLOTPP"
    model_name = "prompt_learner"  # as published, although the checkpoint holds the whole model

    def start_file(self) -> str:
        """Return the checkpoint of the first stage; without PRETRAIN_DIR, MODEL.INIT_WEIGHTS."""
        given = self.cfg.TRAINER.PLOTPP.PRETRAIN_DIR
        if not given or Path(given).is_file():
            return given or super().start_file()
        inner = Path(given) / self.model_name
        return str(checkpoint_path(inner if inner.is_dir() else Path(given), None))
