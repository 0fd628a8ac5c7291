"""How many completions a second go through the text rewards, on one core.

Answers alone under the recipe `reward`, and with thinking of 80 words under all four text rewards.
Every text is another one, so nothing is remembered. `python benchmarks/rewards.py`
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence

from affectgpt_r1.dialogue import parse_completion
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.rewards import RewardRule, reward
from affectgpt_r1_demo.clips import demo_lines, describe

THINK_WORDS = 80
ANSWER = RewardRule(length_penalty="p3")
THINK = RewardRule(alignment=0.4, dual=0.6, format=0.2, length_penalty="p3", mode="think")
LEAST = {"answer": 20_000, "think": 4_000}

Row = tuple[str, list[str]]


def rows(count: int, mode: str, seed: int) -> list[Row]:
    """Completions with their labels: words of the lexicon, prose of the demo's descriptions."""
    draw = random.Random(seed)
    words = [word for word in Lexicon.load().words if " " not in word]
    prose = [f"{line.text} {describe(take)}" for line in demo_lines() for take in line.takes]
    made = []
    for _ in range(count):
        answer = ", ".join(draw.sample(words, draw.randint(1, 5)))
        think = ""
        if mode == "think":
            text: list[str] = []
            while len(text) < THINK_WORDS:
                text += draw.choice(prose).split()
            text[draw.randrange(THINK_WORDS)] = draw.choice(words)
            think = f"<think>{' '.join(text[:THINK_WORDS])}</think>"
        made.append((f"{think}<answer>{answer}</answer>", draw.sample(words, draw.randint(1, 4))))
    return made


def rate(given: Sequence[Row], rule: RewardRule) -> float:
    """Completions a second."""
    lexicon = Lexicon.load()
    start = time.perf_counter()
    for text, labels in given:
        reward(parse_completion(text, rule.mode), labels, lexicon, rule)
    return len(given) / (time.perf_counter() - start)


def main() -> None:
    """Measure both modes; exit 1 where one is slower than asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    slow = False
    print("| mode | completions a second, median (least, most) | asked for |\n|---|---|---|")
    for mode, rule in (("answer", ANSWER), ("think", THINK)):
        part = options.count // options.repeats
        rates = [rate(rows(part, mode, seed), rule) for seed in range(options.repeats)]
        found = statistics.median(rates)
        slow |= found < LEAST[mode]
        spread = f"{found:,.0f} ({min(rates):,.0f}, {max(rates):,.0f})"
        print(f"| {mode} | {spread} | {LEAST[mode]:,} |")
    raise SystemExit(slow)


if __name__ == "__main__":
    main()
