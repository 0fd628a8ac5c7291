"""Rewards of a file of completions, row by row: how a person debugs a reward.

Everything that a training run would have been given, and what was odd about each completion.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from affectgpt_r1.config import RewardRecipe
from affectgpt_r1.dialogue import parse_completion
from affectgpt_r1.emotion.labels import read_words
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.evaluation.answers import is_texts, read_rows
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
    for number, row in read_rows(path, _row, "no completion to reward is in it").items():
        read = parse_completion(row["completion"], recipe.mode)
        yield {
            "id": row.get("id", number),
            **asdict(reward(read, read_words(row["labels"]), lexicon, rule)),
            "words": list(read.words),
            "problems": sorted(read.problems),
        }


def _row(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict) or not {"completion", "labels"} <= row.keys():
        raise ValueError("no object with 'completion' and 'labels'")
    completion, labels = row["completion"], row["labels"]
    if not isinstance(completion, str) or not (isinstance(labels, str) or is_texts(labels)):
        raise ValueError("'completion' is a text, 'labels' a text or a list of texts")
    json.dumps(row, ensure_ascii=False, allow_nan=False).encode()  # what is told again can be told
    return row
