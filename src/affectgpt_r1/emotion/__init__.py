"""Emotion words: labels to words, words to wheel classes, classes to scores. No torch in here."""
