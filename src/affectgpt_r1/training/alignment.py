"""A start for the projectors by least squares: a clip's token begins near the words for it.

Before cold start, each projector is fitted in closed form so that a clip's pooled features land on
the mean embedding of its labels. The language model reads such a token much as it reads the words,
so gradient descent need not find that direction from noise: with a few hundred clips it would not.
Beyond the paper, off by default; seconds of work. Only training clips are used.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from affectgpt_r1.model.modeling import AffectGPTForConditionalGeneration
from affectgpt_r1.model.processing import AffectGPTProcessor
from affectgpt_r1.training.trainer import Examples

_RIDGES = torch.logspace(-2, 5, 15, dtype=torch.float64)


@torch.no_grad()
def align_projectors(
    model: AffectGPTForConditionalGeneration, processor: AffectGPTProcessor, examples: Examples
) -> dict[str, float]:
    """Fit the visual and the audio projector to the labels' embeddings.

    Args:
        model: freshly made: its pooling is still the plain mean.
        processor: tokenises the labels.
        examples: labelled clips; those without a modality are left out of its fit. Where all
            have the same labels, there is none.

    Returns:
        For each modality that was fitted the share of the targets' variance that is explained on
        clips left out one by one.
    """
    table = model.language_model.get_input_embeddings().weight.double()

    def embedded(words: Sequence[str]) -> Tensor:
        return torch.stack([table[processor.word_ids(w)].mean(dim=0) for w in words]).mean(dim=0)

    labels = [clip.labels or ("neutral",) for clip, _ in examples]
    targets = torch.stack(list(map(embedded, labels)))  # (N, H)
    explained = {}
    for name in ("visual", "audio"):
        rows = [i for i, (_, f) in enumerate(examples) if getattr(f, f"has_{name}")]
        if len({frozenset(labels[i]) for i in rows}) > 1:
            steps = [torch.from_numpy(getattr(examples[i][1], name)) for i in rows]
            pooled = torch.stack([step.double().mean(dim=0) for step in steps])  # (n, D)
            projector = getattr(model.fusion, f"{name}_projector")
            explained[name] = _fit(projector, pooled, targets[rows])
    return explained


def _fit(projector: nn.Linear, inputs: Tensor, targets: Tensor) -> float:
    """Ridge regression with the penalty that is best for clips left out one by one."""
    centre, middle = inputs.mean(dim=0), targets.mean(dim=0)
    deviations = targets - middle
    left, values, right = torch.linalg.svd(inputs - centre, full_matrices=False)
    projected = left.T @ deviations  # (r, H)

    def left_out_error(ridge: Tensor) -> float:
        shrink = values**2 / (values**2 + ridge)
        residual = deviations - left @ (shrink[:, None] * projected)
        leverage = (left**2 * shrink).sum(dim=1) + 1 / len(inputs)
        return float(((residual / (1 - leverage)[:, None]) ** 2).sum())

    best = min(_RIDGES, key=left_out_error)
    weight = right.T @ ((values / (values**2 + best))[:, None] * projected)  # (D, H)
    # A ridge shrinks what it predicts; the language model should see deviations of full size.
    predicted = (inputs - centre) @ weight
    scale = float(deviations.norm() / predicted.norm().clamp(min=1e-9))
    projector.weight.copy_((scale * weight).T)
    projector.bias.copy_(middle - scale * centre @ weight)
    return 1 - left_out_error(best) / float((deviations**2).sum())
