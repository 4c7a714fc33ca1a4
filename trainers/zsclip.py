"""ZeroshotCLIP for Dassl."""

from prompting.methods import zsclip
from trainers.trainer import PromptTrainer, register


@register
class ZeroshotCLIP(PromptTrainer):
    """Evaluates zero-shot CLIP; nothing is trained."""

    model_class = zsclip.ZeroshotCLIP
    node = "ZSCLIP"
    default_precision = "auto"
    model_name = "zero_shot"
