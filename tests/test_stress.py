"""Random bytes through everything that reads what a model or a file says.

`make test` takes a sample; `make stress` (AFFECTGPT_R1_STRESS=1) the full count.
"""

from __future__ import annotations

import os
import random

from affectgpt_r1.dialogue import parse_completion
from affectgpt_r1.emotion.extract import extract_words
from affectgpt_r1.emotion.labels import parse_labels
from affectgpt_r1.emotion.lexicon import Lexicon

COUNT = 1_000_000 if os.environ.get("AFFECTGPT_R1_STRESS") else 10_000
#: Pieces that the parsers look for, strewn among the noise.
MARKS = [b"<think>", b"</think>", b"<answer>", b"</answer>", b"###", b"[", b"]", b'"', b"'", b","]
MARKS += [b" and ", b"\n1. ", "\uff0c\u3001\u201c".encode(), b"happy", b"not ", b"we infer that "]


def noise(draw: random.Random) -> str:
    """Bytes of no meaning, read as a careless program would."""
    pieces = [draw.choice(MARKS) if draw.random() < 0.4 else draw.randbytes(draw.randrange(9))]
    while draw.random() < 0.8:
        pieces.append(draw.choice(MARKS) if draw.random() < 0.4 else draw.randbytes(4))
    codec, errors = draw.choice(
        [("utf-8", "replace"), ("utf-8", "surrogateescape"), ("latin-1", "strict")]
    )
    return b"".join(pieces).decode(codec, errors)


def test_no_text_makes_a_parser_raise() -> None:
    draw = random.Random(0)
    read = 0
    for _ in range(COUNT):
        text = noise(draw)
        words = parse_labels(text)
        assert all(words)
        assert all(isinstance(word, str) for word in parse_labels(text, "reference"))
        completion = parse_completion(text)
        assert completion.text in text
        assert completion.well_formed == (not completion.problems)
        read += bool(words) + bool(completion.words)
    assert read > COUNT / 2  # the noise holds words, so the parsers were really at work


def test_no_text_makes_the_extractor_raise() -> None:
    draw = random.Random(1)
    lexicon = Lexicon.load()
    found = 0
    for _ in range(COUNT // 100):
        words = extract_words(noise(draw), lexicon)
        assert len(set(words)) == len(words)
        assert all(map(lexicon.knows, words))
        found += len(words)
    assert found
