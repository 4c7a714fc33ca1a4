"""The learned tensors of every method, under the names of released checkpoints."""

from prompting.learners.coupled import IndependentPrompts, ProjectedPrompts
from prompting.learners.textual import Prompts, TextPrompts
from prompting.learners.visual import VisualPrompts

__all__ = ["IndependentPrompts", "ProjectedPrompts", "Prompts", "TextPrompts", "VisualPrompts"]
