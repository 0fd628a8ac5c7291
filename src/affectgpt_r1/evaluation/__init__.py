"""Evaluation: predict with a trained model, score predictions, and show both."""
