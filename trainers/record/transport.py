"""How the transport of ALIGN's and PLOT's head went in an epoch or an evaluation."""

from dassl.engine import TrainerX

from prompting.ot import HierarchicalOT
from trainers.record.log import logger


def record_transport(trainer: TrainerX, part: str) -> None:
    """Read the statistics of the head since the last reading into ``trainer.transport[part]``.

    They also go to TensorBoard, and problems that did not converge to the log. Methods without transport have none.
    ``part`` is "train" after an epoch, "val" or "test" after an evaluation.
    """
    trainer.transport = getattr(trainer, "transport", {})
    head = getattr(trainer.model, "head", None)
    if not isinstance(head, HierarchicalOT):
        return
    found = head.statistics.read(getattr(trainer, "sum_shares", None))
    trainer.transport[part] = {}
    for level, values in found.items():
        # The entropy of uniform plans is for the curves; results.json keeps its keys.
        trainer.transport[part][level] = {name: x for name, x in values.items() if name != "uniform_entropy"}
        scalars = {**values, "not_converged": values["not_converged"] / values["problems"]}
        for name in ("not_converged", "iterations", "entropy", "uniform_entropy"):
            trainer.write_scalar(f"{part}/transport_{level}_{name}", scalars[name], trainer.epoch)
        if values["not_converged"]:
            few = f"{values['not_converged']:,} of {values['problems']:,} problems did not converge"
            within = f"{head.settings.max_iter} iterations (tolerance {head.settings.tol:g})"
            logger.info(f"Transport ({part}), {level} level: {few} within {within}")
