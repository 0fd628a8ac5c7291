"""Rewards of a file of completions, row by row: how a person debugs a reward.

Everything that a training run would have been given, and what was odd about each completion.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from affectgpt_r1.config import RewardRecipe
from affectgpt_r1.dialogue import parse_completion
from affectgpt_r1.emotion.labels import read_words
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import ProblemsError
from affectgpt_r1.evaluation.answers import read_text
from affectgpt_r1.rewards import RewardRule, reward


def reward_rows(path: Path, recipe: RewardRecipe) -> Iterator[dict[str, object]]:
    """The breakdown of each row's reward, in the file's order.

    Args:
        path: JSON Lines with `completion` and `labels` (a list or a text), `id` as wanted; `-`
            reads standard input.
        recipe: terms, penalty, mode, lexicon.

    Raises:
        MissingFileError: there is no such file.
        ProblemsError: wrong lines, all of them, with their numbers; nothing is given then.
        InputError: terms that the mode does not allow, or an unknown lexicon.
    """
    rule, folder = RewardRule.of(recipe.rewards, recipe.mode), recipe.lexicon.folder
    lexicon = Lexicon.load(recipe.lexicon.name, folder=folder)
    source, text = read_text(path)
    rows, problems = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row["completion"], str) or not isinstance(row["labels"], list | str):
                raise TypeError("'completion' is a text, 'labels' a list or a text")
            rows.append((row.get("id", number), row["completion"], read_words(row["labels"])))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            told = f"no {error}" if isinstance(error, KeyError) else str(error) or "not JSON"
            problems.append(f"line {number}: {told}")
    if problems or not rows:
        raise ProblemsError(source, problems or ["no completion to reward is in it"])
    for name, completion, labels in rows:
        read = parse_completion(completion, recipe.mode)
        yield {
            "id": name,
            **asdict(reward(read, labels, lexicon, rule)),
            "words": list(read.words),
            "problems": sorted(read.problems),
        }
