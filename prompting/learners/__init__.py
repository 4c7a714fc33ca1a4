"""The learned tensors of every method, under the names of released checkpoints."""

from prompting.learners.coupled import IndependentPrompts, ProjectedPrompts
from prompting.learners.textual import ClassContexts, Prompts, TextPrompts
from prompting.learners.unified import ReleasedUnifiedPrompts, UnifiedPrompts
from prompting.learners.visual import VisualPrompts

__all__ = [
    "ClassContexts",
    "IndependentPrompts",
    "ProjectedPrompts",
    "Prompts",
    "ReleasedUnifiedPrompts",
    "TextPrompts",
    "UnifiedPrompts",
    "VisualPrompts",
]
