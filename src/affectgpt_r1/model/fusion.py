"""Fusion and projection: encoder features to the three modality tokens (MODEL.md).

Every Linear has a bias, the pooling score has no softmax, and the two fusion weights have none
either: this is the authors' arithmetic, to the letter. The language model is not in here.
"""

import torch
from torch import Tensor, nn


class Fusion(nn.Module):
    """Pools, merges and projects the features of a clip to (multi, audio, visual) tokens.

    Args:
        visual_width: D_v.
        audio_width: D_a.
        hidden_size: H, the language model's width.
    """

    def __init__(self, visual_width: int, audio_width: int, hidden_size: int) -> None:
        super().__init__()
        merged_width = max(visual_width, audio_width)  # D_m
        self.visual_score = nn.Linear(visual_width, 1)
        self.audio_score = nn.Linear(audio_width, 1)
        self.visual_projector = nn.Linear(visual_width, hidden_size)
        self.audio_projector = nn.Linear(audio_width, hidden_size)
        self.merge_visual = nn.Linear(visual_width, merged_width)
        self.merge_audio = nn.Linear(audio_width, merged_width)
        self.merge_hidden = nn.Linear(2 * merged_width, merged_width)
        self.merge_weights = nn.Linear(merged_width, 2)
        self.multi_projector = nn.Linear(merged_width, hidden_size)

    def forward(self, visual: Tensor, audio: Tensor) -> Tensor:
        """Make the modality tokens of a batch.

        Args:
            visual: (B, t, D_v).
            audio: (B, t', D_a).

        Returns:
            (B, 3, H) in the prompt's order: multi, audio, visual.
        """
        visual_token = self.visual_projector(_pool(visual, self.visual_score))  # (B, H)
        audio_token = self.audio_projector(_pool(audio, self.audio_score))  # (B, H)
        seen = self.merge_visual(visual.mean(dim=1))  # (B, D_m)
        heard = self.merge_audio(audio.mean(dim=1))  # (B, D_m)
        weights = self.merge_weights(self.merge_hidden(torch.cat([seen, heard], dim=-1)))  # (B, 2)
        merged = weights[:, :1] * seen + weights[:, 1:] * heard  # (B, D_m)
        return torch.stack([self.multi_projector(merged), audio_token, visual_token], dim=1)

    @torch.no_grad()
    def initialise(self, token_norm: float, generator: torch.Generator) -> None:
        """Start near mean pooling and near the norm of the language model's embeddings.

        The pooled product is quadratic in the features and unnormalised; started at random it is
        either silent or deafening to the language model (MODEL.md, "Ours").

        Args:
            token_norm: the mean norm of the language model's input embeddings.
            generator: makes the start repeatable.
        """
        for score in (self.visual_score, self.audio_score):
            score.weight.normal_(0, 1e-3, generator=generator)
            score.bias.fill_(1 / 8)  # eight frames or windows: their plain mean
        hidden_size = self.visual_projector.out_features
        for linear in (self.merge_visual, self.merge_audio, self.merge_hidden, self.merge_weights):
            linear.weight.normal_(0, linear.in_features**-0.5, generator=generator)
            linear.bias.zero_()
        self.merge_weights.weight.mul_(0.1)
        self.merge_weights.bias.fill_(0.5)
        for linear in (self.visual_projector, self.audio_projector, self.multi_projector):
            scale = token_norm / hidden_size**0.5 / linear.in_features**0.5
            linear.weight.normal_(0, scale, generator=generator)
            linear.bias.zero_()


def _pool(steps: Tensor, score: nn.Linear) -> Tensor:
    """x^T s(x): steps (B, t, D) weighted by a learned score a step, no softmax -> (B, D)."""
    return (steps * score(steps)).sum(dim=1)
