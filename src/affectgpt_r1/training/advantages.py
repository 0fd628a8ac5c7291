"""Rewards of a group to advantages (GRPO's normalisation), in numpy: no model is needed.

Zero-variance groups teach nothing; they are found here, so that no work is spent on them.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

#: Below this spread a group counts as equal; TRL's epsilon in the division is the same.
EPSILON = 1e-4


def group_advantages(
    rewards: NDArray[np.float64], scale: Literal["group", "batch", "none"] = "group"
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Centre each group's rewards and scale them.

    Args:
        rewards: (B, G).
        scale: divide by the group's or the batch's standard deviation (ddof 1), or not.

    Returns:
        advantages (B, G), and which groups vary at all (B,).

    >>> group_advantages(np.array([[0.0, 1.0], [0.5, 0.5]]))[1].tolist()
    [True, False]
    """
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    varied = rewards.std(axis=1, ddof=1) > EPSILON
    if scale == "group":
        centred = centred / (rewards.std(axis=1, ddof=1, keepdims=True) + EPSILON)
    elif scale == "batch":
        centred = centred / (rewards.std(ddof=1) + EPSILON)
    return centred * varied[:, None], varied
