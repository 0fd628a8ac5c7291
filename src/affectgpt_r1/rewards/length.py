"""Length penalties against reward hacking (PAPER.md, "Length penalty").

Further words of a class already named cost the score nothing, so a policy learns to list many.
The penalties therefore count distinct words, not classes.
"""

from math import log
from typing import Literal

LengthPenalty = Literal["none", "p1", "p2", "p3"]


def length_factor(predicted: int, labelled: int, penalty: LengthPenalty) -> float:
    """The factor on accuracy for `predicted` distinct words where `labelled` are right.

    1 where no more words are predicted than labelled. p3 is log Lg / log Lp; at Lg <= 1, where
    that is 0 or undefined, log(Lg + 1) / log(Lp + 1) (docs/paper.md).

    >>> [length_factor(4, 2, p) for p in ("none", "p1", "p2", "p3")]
    [1.0, 0.3333333333333333, 0.5, 0.5]
    """
    if penalty == "none" or predicted <= labelled:
        return 1.0
    if penalty == "p1":
        return 1 / (predicted - labelled + 1)
    if penalty == "p2":
        return labelled / predicted
    if labelled <= 1:
        return log(labelled + 1) / log(predicted + 1)
    return log(labelled) / log(predicted)
