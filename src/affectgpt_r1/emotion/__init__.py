"""Emotion words to wheel classes to scores; loads in a moment and needs no torch.

The stable interface; modules below it are free to change.
"""

from affectgpt_r1.emotion.extract import extract_words
from affectgpt_r1.emotion.hit import HitScore, hit_rate
from affectgpt_r1.emotion.labels import parse_labels
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.emotion.score import (
    CorpusScore,
    ov_mer_table,
    score_corpus,
    score_sample,
)
from affectgpt_r1.emotion.sentiment import SentimentScore, sentiment_of, sentiment_scores

__all__ = [
    "CorpusScore",
    "HitScore",
    "Lexicon",
    "SentimentScore",
    "extract_words",
    "hit_rate",
    "ov_mer_table",
    "parse_labels",
    "score_corpus",
    "score_sample",
    "sentiment_of",
    "sentiment_scores",
]
