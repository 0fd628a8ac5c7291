"""AffectGPT-R1: open-vocabulary multimodal emotion recognition with reinforcement learning.

This package scores open-vocabulary emotion predictions (`emotion`), rewards completions
(`rewards`), trains a multimodal model on those rewards (`training`) and predicts emotions from
clips of people speaking (`evaluation`). Importing it loads nothing heavy.
"""

__version__ = "0.1.0"
