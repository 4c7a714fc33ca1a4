"""Where tokens, learned vectors, class names and EOS stand, against CLIP's own tokenization of whole sentences."""

import open_clip
import pytest
import torch

from prompting.clip import PromptTokens, clip_tokenizer, token_set_mask, tokenize_prompts, tokenize_texts

NAMES = ["cat", "yin_yang", "Boeing 737-800", "mailbox (open)"]


def words_of(tokens: PromptTokens, n: int, k: int) -> list[str]:
    return [clip_tokenizer().decoder[int(i)].replace("</w>", "") for i in tokens.ids[n, k]]


@pytest.mark.parametrize("prefix", ["a photo of a", "a_photo_of_a", ""])
def test_end_is_clips_own_tokenization(vit, prefix):
    tokens = tokenize_prompts(NAMES, n_ctx=3, prefixes=[prefix], clip_model=vit)
    text = prefix.replace("_", " ") or "X X X"
    plain = open_clip.SimpleTokenizer()([f"{text} {name.replace('_', ' ')}." for name in NAMES], context_length=20)
    length = tokens.ids.shape[2]
    assert torch.equal(tokens.ids[0], plain[:, :length]) and not plain[:, length:].any()
    assert torch.equal(tokens.eos[0], plain.argmax(1))
    assert tokens.context[0].tolist() == [[1, 2, 3]] * len(NAMES)


@pytest.mark.parametrize(
    ("position", "expected", "context", "words"),
    [
        ("end", "a photo of a sea horse .", [1, 2, 3], [5, 6]),
        ("middle", "a sea horse photo of a .", [1, 4, 5], [2, 3]),
        ("front", "sea horse a photo of a .", [3, 4, 5], [1, 2]),
    ],
)
def test_class_name_positions(vit, position, expected, context, words):
    """Three of the four words are learned; the last stays a fixed word where it stands."""
    tokens = tokenize_prompts(
        ["sea_horse", "cat"], n_ctx=3, prefixes=["a photo of a"], position=position, clip_model=vit
    )
    assert words_of(tokens, 0, 0) == ["<start_of_text>", *expected.split(), "<end_of_text>"]
    assert tokens.context[0, 0].tolist() == context
    assert tokens.words[0, 0].nonzero().flatten().tolist() == words
    # The shorter name's prompt ends earlier and is padded with zeros.
    assert tokens.eos.tolist() == [[8, 7]] and int(tokens.ids[0, 1, 8]) == 0


def test_a_name_that_ends_in_punctuation_takes_the_stop_with_it(vit):
    tokens = tokenize_prompts(["mailbox (open)"], n_ctx=0, clip_model=vit)
    assert words_of(tokens, 0, 0)[-2:] == [").", "<end_of_text>"]
    assert tokens.words[0, 0].tolist() == [False, True, True, True, True, False]


def test_plain_texts(vit):
    texts = [["a cat.", "dogs"], ["one cat", "two big dogs"]]
    tokens = tokenize_texts(texts, clip_model=vit)
    assert tokens.ids.shape == (2, 2, 5) and tokens.context.shape == (2, 2, 0)
    plain = open_clip.SimpleTokenizer()(sum(texts, []), context_length=20)
    assert torch.equal(tokens.ids.flatten(0, 1), plain[:, :5])
    assert torch.equal(tokenize_texts(texts[0], clip_model=vit).ids, tokens.ids[:1])
    assert tokens.words[0, 0].tolist() == [False, True, True, True, False]


def test_token_sets(vit):
    """``paper``: the context and the name. ``released``: from the first position on, as many as before EOS."""
    tokens = tokenize_prompts(["sea_horse", "cat"], n_ctx=2, prefixes=["a photo of a", ""], clip_model=vit)
    assert tokens.eos.tolist() == [[8, 7], [6, 5]]
    assert words_of(tokens, 1, 1)[:6] == ["<start_of_text>", "x", "x", "cat", ".", "<end_of_text>"]
    paper, released = (
        [[mask[n, k].nonzero().flatten().tolist() for k in range(2)] for n in range(2)]
        for mask in (token_set_mask(tokens, "paper"), token_set_mask(tokens, "released"))
    )
    assert paper == [[[1, 2, 5, 6], [1, 2, 5]], [[1, 2, 3, 4], [1, 2, 3]]]
    assert released == [[list(range(7)), list(range(6))]] * 2  # of the first prompt


def test_the_model_says_how_long_prompts_may_be(vit):
    fits = "cat " * (vit.context_length - 5)  # SOS, two placeholders, the stop, EOS
    assert tokenize_prompts([fits], n_ctx=2, clip_model=vit).ids.shape[2] == vit.context_length
    with pytest.raises(ValueError, match="has 21 tokens .*; the text tower reads at most 20"):
        tokenize_prompts(["dog", fits + "cat"], n_ctx=2, clip_model=vit)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"position": "ends"}, "class token position is 'ends'.*mean 'end'"),
        ({"n_ctx": -1}, "n_ctx is -1"),
        ({"classnames": []}, "non-empty"),
        ({"classnames": ["cat", "_"]}, "non-empty"),
        ({"prefixes": ["a"]}, "prefix 'a' has 1 tokens; n_ctx 2"),
    ],
)
def test_errors(vit, given, message):
    arguments = {"classnames": ["cat"], "n_ctx": 2, **given}
    with pytest.raises(ValueError, match=message):
        tokenize_prompts(arguments.pop("classnames"), clip_model=vit, **arguments)


def test_other_errors(vit):
    with pytest.raises(ValueError, match="reading is 'papers'.*mean 'paper'"):
        token_set_mask(tokenize_texts(["cat"], clip_model=vit), "papers")
    for texts, sizes in (([["cat"], ["cat", "dog"]], "1, 2"), ([], "")):
        with pytest.raises(ValueError, match=rf"lists of \[{sizes}\]"):
            tokenize_texts(texts, clip_model=vit)
