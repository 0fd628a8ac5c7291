"""Faces, frames and windows -> features, computed once by frozen encoders and kept in a cache."""
