"""CLIP for prompt tuning: a loader, tokenized prompts, and both towers with prompts passed in as data."""

from prompting.clip.adapters import BlockAdapter
from prompting.clip.loading import OPENAI_NAMES, checkpoint_file, load_clip, register_checkpoint
from prompting.clip.shape import ClipShape, input_size
from prompting.clip.text import TextEncoder, TextFeatures
from prompting.clip.tokens import (
    PromptTokens,
    clip_tokenizer,
    token_set_mask,
    tokenize_prompts,
    tokenize_texts,
    word_vectors,
)
from prompting.clip.vision import VisionEncoder, VisualFeatures

__all__ = [
    "OPENAI_NAMES",
    "BlockAdapter",
    "ClipShape",
    "PromptTokens",
    "TextEncoder",
    "TextFeatures",
    "VisionEncoder",
    "VisualFeatures",
    "checkpoint_file",
    "clip_tokenizer",
    "input_size",
    "load_clip",
    "register_checkpoint",
    "token_set_mask",
    "tokenize_prompts",
    "tokenize_texts",
    "word_vectors",
]
