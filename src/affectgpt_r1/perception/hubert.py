"""The acoustic encoder of the full profile: HuBERT's last four layers, averaged over time.

WavLM and wav2vec 2.0 models are used in the same way. Whisper is not: it wants 30 s of log-mel
frames, not windows of samples.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from affectgpt_r1.errors import ModelFolderError
from affectgpt_r1.perception.pretrained import load_encoder, weights_revision

_KINDS = ("hubert", "wavlm", "wav2vec2")
_LAYERS = 4


class HubertSpeechEncoder:
    """A frozen speech encoder; make it with `load`.

    Args:
        model: HuBERT, WavLM or wav2vec 2.0 of at least four layers, on the CPU.
        device: where the model runs.

    Raises:
        ModelFolderError: the model has fewer layers.
    """

    def __init__(self, model: PreTrainedModel, device: str = "cpu") -> None:
        if model.config.num_hidden_layers < _LAYERS:
            raise ModelFolderError(
                f"a speech encoder of {model.config.num_hidden_layers} layers, "
                f"{_LAYERS} are averaged: name a larger one"
            )
        self._model = model
        self.name = str(model.config.model_type)
        self.width = int(model.config.hidden_size)
        self.settings: Mapping[str, str | int | float | bool] = {
            "version": 1,
            "revision": weights_revision(model),
            "dtype": str(model.dtype),
        }
        torch.nn.Module.to(model, torch.device(device))

    @classmethod
    def load(
        cls,
        name_or_path: str,
        *,
        local_files_only: bool,
        profile: str = "full",
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> HubertSpeechEncoder:
        """Load an encoder by hub name or folder.

        Args:
            name_or_path: `TencentGameMate/chinese-hubert-large`, or another.
            local_files_only: never ask the network.
            profile: named in the error.
            dtype: of the weights; part of the settings.
            device: where the model runs.

        Raises:
            MissingFileError: it is not on this machine; the message names the command.
            ModelFolderError: it is damaged, incomplete, too small or of another kind.
        """
        model = load_encoder(
            name_or_path, _KINDS, profile=profile, local_files_only=local_files_only, dtype=dtype
        )
        return cls(model, device)

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
