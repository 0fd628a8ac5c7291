"""The visual encoder of the full profile: projected image features of CLIP, not normalised.

SigLIP models are used in the same way, DINOv2's through their pooled output. Faces and frames are
squashed to the model's square, never cropped (MODEL.md, "Encoders"). The text tower is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoImageProcessor,
    CLIPModel,
    PreTrainedModel,
    SiglipModel,
)
from transformers.image_utils import PILImageResampling

from affectgpt_r1.perception.pretrained import load_encoder, reported, weights_revision

_KINDS = ("clip", "siglip", "dinov2")


class ClipImageEncoder:
    """A frozen image encoder; make it with `load`.

    Args:
        model: CLIP, SigLIP or DINOv2, on the CPU.
        processor: gives size, mean and std of the pictures.
        device: where the model runs.
    """

    def __init__(self, model: PreTrainedModel, processor: Any, device: str = "cpu") -> None:
        if isinstance(model, CLIPModel | SiglipModel):
            del model.text_model
        square = processor.crop_size if processor.do_center_crop else processor.size
        self._side = square.height or square.shortest_edge
        self._processor = processor
        self._model = model
        self.name = str(model.config.model_type)
        self.settings: Mapping[str, str | int | float | bool] = {
            "version": 1,
            "revision": weights_revision(model),
            "dtype": str(model.dtype),
            "side": self._side,
            "mean": str(list(processor.image_mean)),
            "std": str(list(processor.image_std)),
        }
        torch.nn.Module.to(model, torch.device(device))
        black = np.zeros((1, self._side, self._side, 3), dtype=np.uint8)
        self.width = int(self.encode(black).shape[1])

    @classmethod
    def load(
        cls,
        name_or_path: str,
        *,
        local_files_only: bool,
        profile: str = "full",
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> ClipImageEncoder:
        """Load an encoder by hub name or folder.

        Args:
            name_or_path: `openai/clip-vit-large-patch14`, or another.
            local_files_only: never ask the network.
            profile: named in the error.
            dtype: of the weights; part of the settings.
            device: where the model runs.

        Raises:
            MissingFileError: it is not on this machine; the message names the command.
            ModelFolderError: it is damaged, incomplete or of another kind.
        """
        model = load_encoder(
            name_or_path, _KINDS, profile=profile, local_files_only=local_files_only, dtype=dtype
        )
        with reported(name_or_path, profile):
            # With torchvision installed the default would resize to other pixels than without.
            processor = AutoImageProcessor.from_pretrained(
                name_or_path, local_files_only=local_files_only, backend="pil"
            )
        return cls(model, processor, device)

    @torch.inference_mode()
    def encode(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode RGB pictures (t, H, W, 3) of any size to (t, width)."""
        pixels = self._processor(
            list(images),
            do_resize=True,
            size={"height": self._side, "width": self._side},
            resample=PILImageResampling.BILINEAR,
            do_center_crop=False,
            input_data_format="channels_last",
            return_tensors="pt",
        )["pixel_values"].to(self._model.device, self._model.dtype)  # (t, 3, side, side)
        if isinstance(self._model, CLIPModel | SiglipModel):
            output = self._model.get_image_features(pixel_values=pixels)
        else:
            output = self._model(pixel_values=pixels)
        return np.asarray(output.pooler_output.float().cpu().numpy())
