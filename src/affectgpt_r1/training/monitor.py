"""Alarms: what in a run's figures looks like trouble while all of them are still numbers.

Read from the run's metrics alone, so a resumed run goes on with what it knew. An alarm is said; it
stops nothing.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WINDOW = 10  # updates: single ones are noise
_LEAP, _MEMORY = 20.0, 50
_EQUAL_SHARE, _LONGER = 0.9, 2.0


def alarms(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What looks wrong with a run's newest updates: the figure's name, and a line about it.

    A gradient twenty times what is usual; a reward at half of its best; groups that do not vary,
    so that nothing is learned; answers twice as long as where `rows` begin, the commonest reward
    hacking (PAPER.md, "Length penalty").

    Args:
        rows: of `metrics.jsonl`, in order; a run gives its last 2,000.
    """
    found = {}
    norms = [row["grad_norm"] for row in rows[-_MEMORY:] if "grad_norm" in row]
    usual = median(norms[:-1]) if len(norms) > _WINDOW else 0.0
    if usual and norms[-1] > _LEAP * usual:
        found["grad_norm"] = f"the gradient's norm is {norms[-1]:.3g}, where {usual:.3g} is usual"
    reward = _running(rows, "reward")
    if len(reward) and 0 <= reward[-1] < reward.max() / 2:
        found["reward"] = f"the reward fell from {reward.max():.3f} to {reward[-1]:.3f}"
    equal = _running(rows, "frac_reward_zero_std")
    if len(equal) and equal[-1] > _EQUAL_SHARE:
        found["frac_reward_zero_std"] = f"{equal[-1]:.0%} of the groups vary in nothing"
    words = _running(rows, "words_per_answer")
    if len(words) and words[-1] > _LONGER * words[0] > 0:
        found["words_per_answer"] = f"answers grew from {words[0]:.1f} to {words[-1]:.1f} words"
    return found


def _running(rows: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float64]:
    """A figure's running means; none before there are enough updates."""
    values = [row[name] for row in rows if name in row]
    if len(values) < _WINDOW:
        return np.empty(0)
    return np.convolve(values, np.full(_WINDOW, 1 / _WINDOW), mode="valid")
