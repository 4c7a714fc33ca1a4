"""Building blocks of prompt tuning for CLIP: towers, tokens, learned prompts, heads, precision. Knows no data set."""
