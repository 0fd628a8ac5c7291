"""The visual encoder of the full profile: projected image features of CLIP, not normalised.

SigLIP models are used in the same way, DINOv2's through their pooled output. Faces and frames are
squashed to the model's square, never cropped (MODEL.md, "Encoders"). The text tower is dropped.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoImageProcessor,
    CLIPModel,
    PreTrainedConfig,
    PreTrainedModel,
    SiglipModel,
)
from transformers.image_utils import PILImageResampling

from affectgpt_r1.perception.pretrained import LOCAL_ONLY, PretrainedEncoder


class ClipImageEncoder(PretrainedEncoder):
    """A frozen image encoder: CLIP, SigLIP or DINOv2, with the processor of its pictures."""

    kinds = ("clip", "siglip", "dinov2")

    def __init__(self, model: PreTrainedModel, processor: Any, device: str = "cpu") -> None:
        if isinstance(model, CLIPModel | SiglipModel):
            del model.text_model
        super().__init__(model, processor, device)
        square = processor.crop_size if processor.do_center_crop else processor.size
        self._side = square.height or square.shortest_edge
        self.settings = {
            **self.settings,
            "side": self._side,
            "mean": str(list(processor.image_mean)),
            "std": str(list(processor.image_std)),
        }
        black = np.zeros((1, self._side, self._side, 3), dtype=np.uint8)
        self.width = int(self.encode(black).shape[1])

    @classmethod
    def _load_processor(cls, name_or_path: str, config: PreTrainedConfig) -> Any:
        # With torchvision installed the default would resize to other pixels than without.
        return AutoImageProcessor.from_pretrained(name_or_path, backend="pil", **LOCAL_ONLY)

    def _prepared(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """RGB pictures (t, H, W, 3) of any size as the model takes them, (t, 3, side, side)."""
        pixels = self._processor(
            list(images),
            do_resize=True,
            size={"height": self._side, "width": self._side},
            resample=PILImageResampling.BILINEAR,
            do_center_crop=False,
            input_data_format="channels_last",
            return_tensors="pt",
        )["pixel_values"]
        return torch.as_tensor(pixels)

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        if isinstance(self._model, CLIPModel | SiglipModel):
            output = self._model.get_image_features(pixel_values=pixels)
        else:
            output = self._model(pixel_values=pixels)
        return torch.as_tensor(output.pooler_output)
