"""Training: cold start, then GRPO, into a run folder that can be killed and gone on with."""
