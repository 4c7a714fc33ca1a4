"""ProGrad for Dassl."""

from typing import cast

from dassl.metrics import compute_accuracy
from torch import Tensor

from prompting.checkpoint import learned_state
from prompting.methods import prograd
from trainers.trainer import Batch, PromptTrainer, register


@register
class ProGrad(PromptTrainer):
    """Learns a context by gradients that do not oppose zero-shot CLIP."""

    model_class = prograd.ProGrad
    node = "COOP"
    other_keys = {key: f"LOSS.{key}" for key in ("NAME", "GM", "ALPHA", "T", "LAMBDA")}
    model_name = saved_part = "prompt_learner"

    def forward_backward(self, batch: Batch) -> dict[str, float]:
        """Take one step along the projected gradient and return both losses and the accuracy."""
        images, labels = self.parse_batch_train(batch)
        with self.precision.autocast():
            terms, logits = self.model.loss_terms(images, labels)
        for loss in terms.values():
            self.detect_anomaly(loss)
        learned, weight = list(learned_state(self.model).values()), self.settings(self.cfg)["LAMBDA"]
        share = getattr(self, "share_gradients", lambda: None)  # sums over processes, in this project's engine

        self.optim.zero_grad()
        (terms["kl"] if self.scaler is None else self.scaler.scale(terms["kl"])).backward(retain_graph=True)
        share()
        general = [cast(Tensor, tensor.grad).clone() for tensor in learned]  # the projection ignores their scale

        def project() -> None:
            share()
            for tensor, direction in zip(learned, general):
                tensor.grad = prograd.project(cast(Tensor, tensor.grad), direction, weight)

        self.precision.backward_and_step(terms["xe"], self.optim, project)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        accuracy = compute_accuracy(logits, labels)[0].item()
        return {"xe_loss": terms["xe"].item(), "kl_loss": terms["kl"].item(), "acc": accuracy}
