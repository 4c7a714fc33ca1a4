"""Both towers under one name; see ``text`` and ``vision``."""

from prompting.clip.text import TextEncoder, TextFeatures, word_vectors
from prompting.clip.vision import VisionEncoder, VisualFeatures

__all__ = ["TextEncoder", "TextFeatures", "VisionEncoder", "VisualFeatures", "word_vectors"]
