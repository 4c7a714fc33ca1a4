"""CLIP for prompt tuning: one loader, prompts as tokens, and both towers with prompts passed in as data."""

from prompting.clip.encoders import TextEncoder, TextFeatures, VisionEncoder, VisualFeatures
from prompting.clip.shape import ClipShape, describe, input_size, model_dtype
from prompting.clip.tokens import PromptTokens, clip_tokenizer, token_set_mask, tokenize_prompts, tokenize_texts

__all__ = [
    "ClipShape",
    "PromptTokens",
    "TextEncoder",
    "TextFeatures",
    "VisionEncoder",
    "VisualFeatures",
    "clip_tokenizer",
    "describe",
    "input_size",
    "model_dtype",
    "token_set_mask",
    "tokenize_prompts",
    "tokenize_texts",
]
