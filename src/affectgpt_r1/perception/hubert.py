"""The acoustic encoder of the full profile: HuBERT's last four layers, averaged over time.

WavLM and wav2vec 2.0 models are used in the same way. Whisper is not: it wants 30 s of log-mel
frames, not windows of samples.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from affectgpt_r1.errors import ModelFolderError
from affectgpt_r1.perception.pretrained import PretrainedEncoder

_LAYERS = 4


class HubertSpeechEncoder(PretrainedEncoder):
    """A frozen speech encoder: HuBERT, WavLM or wav2vec 2.0 of at least four layers.

    Raises:
        ModelFolderError: the model has fewer layers.
    """

    kinds = ("hubert", "wavlm", "wav2vec2")

    def __init__(self, model: PreTrainedModel, processor: None = None) -> None:
        if model.config.num_hidden_layers < _LAYERS:
            raise ModelFolderError(
                f"a speech encoder of {model.config.num_hidden_layers} layers, "
                f"{_LAYERS} are averaged: name a larger one"
            )
        super().__init__(model, processor)
        self.width = int(model.config.hidden_size)

    @torch.inference_mode()
    def encode(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encode raw 16 kHz windows (t, n) to (t, width).

        The windows meet only in their common normalisation.
        """
        values = torch.from_numpy(normalised(windows)).to(self._model.device, self._model.dtype)
        output = self._model(values, output_hidden_states=True)
        # The last state of a stable-layer-norm model is raw; the authors' library normalised it.
        states = [*output.hidden_states[-_LAYERS:-1], output.last_hidden_state]
        mean = torch.stack(states).mean(dim=0).mean(dim=1)  # (t, width)
        return np.asarray(mean.float().cpu().numpy())


def normalised(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centre each window, then bring all together to zero mean and unit variance: (t, n)."""
    centred = windows - windows.mean(axis=1, keepdims=True)
    return np.asarray((centred - centred.mean()) / np.sqrt(centred.var() + 1e-7), dtype=np.float32)
