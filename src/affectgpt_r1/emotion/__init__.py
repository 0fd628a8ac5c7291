"""Emotion words to wheel classes to scores; loads in a moment and needs no torch.

The stable interface; modules below it are free to change.
"""

from affectgpt_r1.emotion.extract import extract_words as extract_words
from affectgpt_r1.emotion.labels import parse_labels as parse_labels
from affectgpt_r1.emotion.lexicon import Lexicon as Lexicon
from affectgpt_r1.emotion.score import CorpusScore as CorpusScore
from affectgpt_r1.emotion.score import HitScore as HitScore
from affectgpt_r1.emotion.score import hit_rate as hit_rate
from affectgpt_r1.emotion.score import ov_mer_table as ov_mer_table
from affectgpt_r1.emotion.score import score_corpus as score_corpus
from affectgpt_r1.emotion.score import score_sample as score_sample
from affectgpt_r1.emotion.sentiment import SentimentScore as SentimentScore
from affectgpt_r1.emotion.sentiment import sentiment_of as sentiment_of
from affectgpt_r1.emotion.sentiment import sentiment_scores as sentiment_scores
