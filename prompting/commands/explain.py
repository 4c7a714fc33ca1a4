"""Draw what a trained run has learned: transport plans, words, embeddings, training curves.

examples:
  align-clip explain output/first plan photos/cat.jpg --top 2
  align-clip explain output/first curves --output-dir pictures
"""

from prompting.explain.command import add_arguments, run

__all__ = ["add_arguments", "run"]
