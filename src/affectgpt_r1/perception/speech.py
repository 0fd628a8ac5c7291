"""The acoustic encoder of the full profile: HuBERT's last four layers, averaged over time.

WavLM and wav2vec 2.0 models are used in the same way. So is Whisper's encoder, but that it hears
log mel spectra padded to its 30 s, of which only what lies in the window is averaged.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedConfig, PreTrainedModel, WhisperFeatureExtractor

from affectgpt_r1.errors import ModelFolderError
from affectgpt_r1.media.audio import RATE_HZ, WINDOW_S
from affectgpt_r1.perception.pretrained import LOCAL_ONLY, PretrainedEncoder

_LAYERS = 4
# Of Whisper's 1,500, those that lie in a window: each is of 320 samples.
_WHISPER_POSITIONS = WINDOW_S * RATE_HZ // 320


class PretrainedSpeechEncoder(PretrainedEncoder):
    """A frozen speech encoder: HuBERT, WavLM, wav2vec 2.0 or Whisper of at least four layers.

    Raises:
        ModelFolderError: the model has fewer layers.
    """

    kinds = ("hubert", "wavlm", "wav2vec2", "whisper")

    def __init__(self, model: PreTrainedModel, processor: Any = None, device: str = "cpu") -> None:
        if model.config.num_hidden_layers < _LAYERS:
            raise ModelFolderError(
                f"a speech encoder of {model.config.num_hidden_layers} layers, "
                f"{_LAYERS} are averaged: name a larger one"
            )
        self.width = int(model.config.hidden_size)
        # Of Whisper, the half that listens.
        listening: Any = model.encoder if processor else model
        super().__init__(listening, processor, device)

    @classmethod
    def _load_processor(cls, name_or_path: str, config: PreTrainedConfig) -> Any:
        if config.model_type == "whisper":
            return WhisperFeatureExtractor.from_pretrained(name_or_path, **LOCAL_ONLY)
        return None

    def _prepared(self, windows: NDArray[np.float32]) -> torch.Tensor:
        """Raw 16 kHz windows (t, n) as the model takes them."""
        if self._processor is None:
            return torch.from_numpy(normalised(windows))
        mel = self._processor(list(windows), sampling_rate=RATE_HZ, return_tensors="pt")
        return torch.as_tensor(mel["input_features"])  # (t, mels, 3000)

    def _features(self, values: torch.Tensor) -> torch.Tensor:
        output = self._model(values, output_hidden_states=True)
        # The last state of a stable-layer-norm model is raw; the authors' library normalised it.
        states = [*output.hidden_states[-_LAYERS:-1], output.last_hidden_state]
        mean = torch.stack(states).mean(dim=0)  # (t, positions, width)
        return mean[:, : _WHISPER_POSITIONS if self._processor else None].mean(dim=1)


def normalised(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centre each window, then bring all together to zero mean and unit variance: (t, n)."""
    centred = windows - windows.mean(axis=1, keepdims=True)
    return np.asarray((centred - centred.mean()) / np.sqrt(centred.var() + 1e-7), dtype=np.float32)
