"""Look at a trained run: transport plans, learned words, embeddings and training curves.

``align-clip explain RUN plan IMAGE`` draws them. The pictures need the packages of the extra ``explain``:
``pip install "align-clip[explain]"``.
"""

from prompting.explain.plans import ClassPlan, ImagePlan, evenness, token_words, transport_plans

__all__ = ["ClassPlan", "ImagePlan", "evenness", "token_words", "transport_plans"]
