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
from affectgpt_r1.evaluation.answers import is_texts, read_text, reason_of
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
            if not isinstance(row, dict) or not {"completion", "labels"} <= row.keys():
                raise ValueError("no object with 'completion' and 'labels'")
            completion, labels = row["completion"], row["labels"]
            if not isinstance(completion, str) or not (isinstance(labels, str) or is_texts(labels)):
                raise ValueError("'completion' is a text, 'labels' a text or a list of texts")
            json.dumps(row, ensure_ascii=False, allow_nan=False).encode()  # can be told again
            rows.append((row.get("id", number), completion, read_words(labels)))
        except (ValueError, RecursionError) as error:
            problems.append(f"line {number}: {reason_of(error)}")
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
