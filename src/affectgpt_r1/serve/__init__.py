"""Predictions and scores over HTTP, and a page for people."""
