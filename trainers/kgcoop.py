"""KgCoOp for Dassl."""

from prompting.methods import kgcoop
from trainers.trainer import PromptTrainer, register


@register
class KgCoOp(PromptTrainer):
    """Learns a context whose class features stay close to those of the data set's sentence."""

    model_class = kgcoop.KgCoOp
    node = "COOP"
    model_name = saved_part = "prompt_learner"
    unused = ("bias_vectors", "meta_net")
