"""The emotion reward in OpenRLHF 0.11.2, a completion at a time.

    python -m openrlhf.cli.train_ppo_ray ... \
      --reward.remote_url examples/openrlhf_reward.py --data.label_key labels

The labels' column holds lists, or texts that name them. Terms and penalty are `REWARD` below:
OpenRLHF passes no settings on.
"""

from __future__ import annotations

import logging
import re
from dataclasses import asdict
from typing import Any

from affectgpt_r1.errors import InputError
from affectgpt_r1.rewards import RewardRule
from affectgpt_r1.rewards.adapters import EmotionReward

_log = logging.getLogger(__name__)

#: Made when OpenRLHF loads the file: a fault in it stops the run there and then.
REWARD = EmotionReward(RewardRule(length_penalty="p3"))

#: What closes a turn: <|im_end|>, <｜end▁of▁sentence｜>, <end_of_turn>, </s>, <eos>.
_END = re.compile(r"(?:(?:<[|｜][^<>]*[|｜]>|</s>|<eos>|<end_of_turn>)\s*+)++$")
#: So many last characters of a prompt, at most, tell where it ends.
_TAIL = 32


def reward_func(queries: list[str], prompts: list[str], labels: list[Any]) -> dict[str, Any]:
    """The total as `rewards`, the accuracy as `scores`, every term as `extra_logs`: all floats.

    Args:
        queries: one prompt with its completion, special tokens and all.
        prompts: the one prompt.
        labels: the one row's labels.

    Raises:
        InputError: no labels, or the prompt's end is not in the query.
    """
    try:
        (query,), (prompt,), (truth,) = queries, prompts, labels
        if not truth:
            raise InputError("a row without labels: name their column with --data.label_key")
        row = asdict(REWARD.breakdown(completion_of(query, prompt), truth))
    except Exception:
        # OpenRLHF tells of it in one line at level INFO and goes on without a reward.
        _log.exception("the emotion reward failed: OpenRLHF will have no reward for this sample")
        raise
    # OpenRLHF cannot leave a row out. Where no lexicon knows a label, `judged` is 0 and the total
    # is that of the other terms; a group shares its labels, so its advantages are right.
    judged = float(row["accuracy"] is not None)
    total = row.pop("total")
    terms = {term: value or 0.0 for term, value in row.items()}
    # Filtering compares the scores' mean with a range, by default 0 to 1: no place for a total.
    return {
        "rewards": total,
        "scores": terms["accuracy"],
        "extra_logs": {**terms, "judged": judged},
    }


def completion_of(query: str, prompt: str) -> str:
    r"""The completion out of OpenRLHF's query, without the tokens that close it.

    >>> completion_of("<|im_start|>assistant\nSad.<|im_end|>", "<|im_start|>assistant\n")
    'Sad.'

    Raises:
        InputError: the prompt's end is not in the query.
    """
    if query.startswith(prompt):
        completion = query[len(prompt) :]
    else:  # cut on its left for its length, or its images filled in: it ends as it did
        tail = prompt[-_TAIL:]
        *before, completion = query.split(tail, prompt.count(tail))
        if not before:
            raise InputError(f"the prompt's end {tail!r} is not in the query {query[-200:]!r}")
    return _END.sub("", completion)
