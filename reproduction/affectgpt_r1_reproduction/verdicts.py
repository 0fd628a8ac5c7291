"""Verdicts: what the answers of several seeds say about a claim, and how sure that is.

Intervals are over test clips and seeds at once: groups of clips are drawn as everywhere
(`emotion.significance`), with Student's t for the seeds. Nothing is run here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from affectgpt_r1.clips import Clip
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import best_constant
from affectgpt_r1.emotion.significance import Interval, Statistic, bootstrap, ew_statistic, holm
from affectgpt_r1_reproduction.plan import CONSTANT, Claim, Figure

Verdict = Literal["holds", "does not hold", "undecided"]
#: A setting's words: by seed, of each test clip.
Said = Mapping[int, Sequence[tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim and what became of it.

    Attributes:
        claim: the statement.
        interval: of its contrast, without the margin.
        p: two-sided, of contrast and margin being 0; by Holm over the claims of the table.
        by_seed: the contrast in each seed that all its settings have.
        verdict: at p < 0.05, else undecided; of one seed alone, undecided.
    """

    claim: Claim
    interval: Interval
    p: float
    by_seed: tuple[float, ...]
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Ground:
    """The test clips as the figures need them, and the lexicon that scores."""

    labels: tuple[tuple[str, ...], ...]
    groups: tuple[str, ...]
    lexicon: Lexicon

    @classmethod
    def of(cls, clips: Sequence[Clip], lexicon: Lexicon) -> "Ground":
        """That of labelled clips."""
        labels = tuple(clip.labels or () for clip in clips)
        return cls(labels, tuple(clip.group or clip.id for clip in clips), lexicon)

    def constant(self) -> tuple[str, ...]:
        """The constant answer that scores best on these very labels."""
        return best_constant(self.labels, self.lexicon)[0]

    def figure(self, name: Figure, words: Sequence[tuple[str, ...]]) -> Statistic:
        """A figure of one seed's answers."""
        if name.startswith("f"):
            lexicon = Lexicon.load("mer2026") if name == "f by mer2026" else self.lexicon
            levels = (2,) if name == "f of level 2" else (1,)
            return ew_statistic(list(zip(self.labels, words, strict=True)), lexicon, levels)
        counts = np.array([len(answer) for answer in words], dtype=np.float64)
        if name == "words":
            return _ratio(counts, np.ones(len(words)))
        known = [sum(map(self.lexicon.counts, answer)) for answer in words]
        return _ratio(np.array(known, dtype=np.float64), counts)

    def interval(self, name: Figure, said: Said) -> Interval:
        """A figure's mean over the seeds."""
        return bootstrap(
            _over_seeds([self.figure(name, one) for one in said.values()]), self.groups
        )

    def difference(self, one: str, other: str, said: Mapping[str, Said]) -> Interval | None:
        """A setting's F minus another's, over the seeds that both have; None: there are none."""
        seeds = self._contrasts(Claim(says="", contrast={one: 1, other: -1}), said)
        return bootstrap(_over_seeds(seeds), self.groups) if seeds else None

    def judge(self, claims: Sequence[Claim], said: Mapping[str, Said]) -> list[Judged]:
        """Judge claims together; one whose settings have no seed in common is left out.

        Args:
            claims: about settings.
            said: their answers; of the constant answer there is no need.
        """
        found = []
        for claim in claims:
            seeds = self._contrasts(claim, said)
            if not seeds:
                continue
            by_seed = [float(one(np.ones((1, len(self.labels))))[0]) for one in seeds]
            mean = _over_seeds(seeds)
            shifted = bootstrap(_shifted(mean, claim.margin), self.groups)
            found.append((claim, bootstrap(mean, self.groups), shifted, by_seed))
        p_values = holm([shifted.p for _, _, shifted, _ in found])
        return [
            Judged(claim, interval, p, tuple(by_seed), _verdict(shifted.value, p, len(by_seed)))
            for (claim, interval, shifted, by_seed), p in zip(found, p_values, strict=True)
        ]

    def _contrasts(self, claim: Claim, said: Mapping[str, Said]) -> list[Statistic]:
        """The contrast of each seed that all its settings have."""
        have = [said.get(name, {}) for name in claim.contrast if name != CONSTANT]
        always = [self.constant()] * len(self.labels)

        def contrast(seed: int) -> Statistic:
            answers = {
                name: always if name == CONSTANT else said[name][seed] for name in claim.contrast
            }
            figures = {name: self.figure(claim.figure, words) for name, words in answers.items()}
            return _sum([(factor, figures[name]) for name, factor in claim.contrast.items()])

        return [contrast(seed) for seed in sorted(set(have[0]).intersection(*have))]


def _verdict(value: float, p: float, seeds: int) -> Verdict:
    if seeds < 2 or not p < 0.05:
        return "undecided"
    return "holds" if value > 0 else "does not hold"


def _sum(terms: Sequence[tuple[float, Statistic]]) -> Statistic:
    return lambda weights: np.sum([factor * one(weights) for factor, one in terms], axis=0)


def _shifted(statistic: Statistic, margin: float) -> Statistic:
    return lambda weights: statistic(weights) + margin


def _ratio(parts: NDArray[np.float64], wholes: NDArray[np.float64]) -> Statistic:
    def ratio(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = (weights @ parts) / np.maximum(weights @ wholes, 1e-9)
        return found

    return ratio


def _over_seeds(seeds: Sequence[Statistic]) -> Statistic:
    """The mean over seeds; on every draw of clips with all errors that so few seeds may have.

    Their spread tells how far off their mean may be, in units of Student's t. It holds also where
    each is wrong on other clips, which the draws of clips hold already: the interval is rather too
    wide than too narrow.
    """

    def statistic(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        values = np.stack([one(weights) for one in seeds], axis=1)  # (1 + R, S)
        count, mean = len(seeds), np.asarray(values.mean(axis=1))
        if count < 2:
            return mean
        # The first row: on the clips as they are.
        errors = _student(count - 1) * (values[0].std(ddof=1) / count**0.5)
        return np.concatenate([mean[:1], (mean[1:, None] + errors).ravel()])

    return statistic


@cache
def _student(freedom: int) -> NDArray[np.float64]:
    """200 values of Student's t that stand for equal shares of it, symmetric about 0."""
    drawn = np.random.default_rng(0).standard_t(freedom, size=1_000_000)
    shares = np.quantile(drawn, (np.arange(200) + 0.5) / 200)
    return np.asarray((shares - shares[::-1]) / 2)
