"""Random bytes through everything that reads what a model or a file says.

`make test` takes a sample; `make stress` (AFFECTGPT_R1_STRESS=1) the full count.
"""

from __future__ import annotations

import os
import random
from typing import get_args

from affectgpt_r1.config import LengthPenalty
from affectgpt_r1.dialogue import Mode, parse_completion
from affectgpt_r1.emotion.extract import extract_words
from affectgpt_r1.emotion.labels import parse_labels
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.rewards import RewardRule, reward

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


#: What a policy may come to say, to be mutated.
REPLIES = [
    "<answer>happy, relieved</answer>",
    "<think>She smiles. We infer that she is happy, not sad.</think><answer>happy</answer>",
    "<think>No anger, but fear.</think>\n<answer>afraid, tense; worried</answer>###",
    "The character's emotional state is angry, annoyed.",
]


def mutated(draw: random.Random) -> str:
    """A reply with pieces of it cut, doubled, moved or made noise."""
    text = draw.choice(REPLIES)
    for _ in range(draw.randrange(5)):
        i, j = sorted(draw.randrange(len(text) + 1) for _ in range(2))
        piece = draw.choice(["", text[i:j] * 2, text[i:j][::-1], noise(draw), text])
        k = draw.randrange(len(text) + 1)
        text = draw.choice([text[:i] + piece + text[j:], text[:k] + piece + text[k:]])[:2000]
    return text


def test_no_completion_makes_a_reward_raise_or_leave_its_bounds() -> None:
    draw, lexicon = random.Random(2), Lexicon.load()
    modes: tuple[tuple[Mode, float], ...] = (("answer", 0.0), ("think", 0.5))
    rules = [
        RewardRule(mode=mode, alignment=w, dual=w, length_penalty=penalty, gate=gate)
        for mode, w in modes
        for penalty in get_args(LengthPenalty)
        for gate in (False, True)
    ]
    seen = set()
    for i in range(COUNT):
        rule = rules[i % len(rules)]
        most = rule.format + rule.accuracy + rule.alignment + rule.dual
        labels = draw.sample(["happy", "sad", "tense", "qwertyuiop"], draw.randrange(4))
        found = reward(parse_completion(mutated(draw), rule.mode), labels, lexicon, rule)
        assert 0 <= found.total <= most + 1e-12
        seen.add((found.format, found.accuracy is None, found.total > 1))
    assert len(seen) >= 6  # the mutations reach every kind of reply


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
