"""From subtitles, questions and features to a model's batch, and back to text.

Placeholders are positions that the template builder knows; no token is added to a vocabulary and
nothing is searched for in user text (MODEL.md, "Ours"). Padding is known from masks, never from
`ids != pad`, since pad and end are one token.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from affectgpt_r1.dialogue import STOP, Modality, Mode, Part, PromptPiece, Text, View, prompt_pieces
from affectgpt_r1.perception.features import Features

#: Values of the `modality` tensor: which token stands at a position.
MODALITY_INDEX = {Modality.MULTI: 1, Modality.AUDIO: 2, Modality.VISUAL: 3}


@dataclass(frozen=True, slots=True)
class TokenisedPrompt:
    """A prompt as ids, with the modality at each position.

    Attributes:
        ids: P token ids; at a modality's position the id is not read.
        modality: P values of `MODALITY_INDEX`, 0 for text.
        truncated: whether the subtitle was cut to fit.
    """

    ids: tuple[int, ...]
    modality: tuple[int, ...]
    truncated: bool


class AffectGPTProcessor(ProcessorMixin):
    """Tokenises prompts and targets, and batches them with features.

    Args:
        tokenizer: the language model's.
        bos_at_inference: whether a prompt for sampling begins with the beginning token.
        max_prompt_tokens: a longer prompt has its subtitle cut (the authors cut at 1,024).
        max_target_tokens: a longer target is cut.
    """

    tokenizer: PreTrainedTokenizerBase

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        bos_at_inference: bool = True,
        max_prompt_tokens: int = 1024,
        max_target_tokens: int = 1024,
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, **kwargs)
        self.bos_at_inference = bos_at_inference
        self.max_prompt_tokens = max_prompt_tokens
        self.max_target_tokens = max_target_tokens

    def ask(
        self,
        subtitle: str,
        features: Features,
        *,
        view: View,
        mode: Mode = "answer",
        question: str | None = None,
        without: Collection[Part] = (),
        training: bool = False,
    ) -> TokenisedPrompt:
        """A clip's prompt: with the parts that it has, but for those in `without`.

        Args:
            subtitle, features: the clip's.
            view, mode, question: as in `dialogue.prompt_pieces`.
            without: parts that are left out.
            training: as in `prompt`.
        """
        pieces = prompt_pieces(
            subtitle,
            mode=mode,
            question=question,
            view=view,
            has_audio=features.has_audio and Part.VOICE not in without,
            has_visual=features.has_visual and Part.FACE not in without,
            has_subtitle=Part.WORDS not in without,
        )
        return self.prompt(pieces, training=training)

    def prompt(self, pieces: Sequence[PromptPiece], *, training: bool = False) -> TokenisedPrompt:
        """Tokenise a prompt's pieces one by one and join the ids.

        Args:
            pieces: from `dialogue.prompt_pieces`.
            training: a training sequence always begins with the beginning token (MODEL.md).
        """
        ids = [self._ids(p.text) if isinstance(p, Text) else [self._pad_id] for p in pieces]
        marks = [0 if isinstance(piece, Text) else MODALITY_INDEX[piece] for piece in pieces]
        given = [i for i, p in enumerate(pieces) if isinstance(p, Text) and not p.trusted]
        first, begins = self.tokenizer.bos_token_id, training or self.bos_at_inference
        begin = [first] if begins and first is not None else []
        surplus = len(begin) + sum(map(len, ids)) - self.max_prompt_tokens
        truncated = surplus > 0
        for place in given:  # the user's text gives way, the question stays
            cut = min(max(surplus, 0), len(ids[place]))
            ids[place] = ids[place][: len(ids[place]) - cut]
            surplus -= cut
        modality = [mark for piece, mark in zip(ids, marks, strict=True) for _ in piece]
        return TokenisedPrompt((*begin, *chain(*ids)), (*[0] * len(begin), *modality), truncated)

    def target(self, text: str) -> list[int]:
        """Ids of a reply to learn: the text and the stop string, tokenised apart, then the end."""
        ids = self._ids(text + STOP)[: self.max_target_tokens]
        return [*ids, self.end_id]

    def word_ids(self, word: str) -> list[int]:
        """Ids of a word as it stands inside a text."""
        return self._ids(f" {word}")

    @property
    def end_id(self) -> int:
        """The end-of-sequence token."""
        end: int = self.tokenizer.eos_token_id
        return end

    @property
    def _pad_id(self) -> int:
        pad: int | None = self.tokenizer.pad_token_id
        return self.end_id if pad is None else pad

    def _ids(self, text: str) -> list[int]:
        # Text that looks like a special token is split, so that no subtitle can end the prompt.
        ids: list[int] = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True
        ).input_ids
        return ids

    def batch(
        self,
        prompts: Sequence[TokenisedPrompt],
        features: Sequence[Features],
        device: torch.device | str = "cpu",
    ) -> dict[str, Tensor]:
        """Pad prompts on the left to one length and stack the clips' features.

        Args:
            prompts: B prompts.
            features: B clips' features, all of one width and length.
            device: where the batch is wanted.

        Returns:
            input_ids, attention_mask, modality (B, P), visual (B, t, D_v), audio (B, t, D_a).
        """
        shape = (len(prompts), max(len(prompt.ids) for prompt in prompts))
        input_ids = torch.full(shape, self._pad_id)
        attention_mask, modality = torch.zeros(shape).long(), torch.zeros(shape).long()
        for row, prompt in enumerate(prompts):
            input_ids[row, -len(prompt.ids) :] = torch.tensor(prompt.ids)
            attention_mask[row, -len(prompt.ids) :] = 1
            modality[row, -len(prompt.ids) :] = torch.tensor(prompt.modality)
        batch = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "modality": modality,
            "visual": torch.stack([torch.from_numpy(f.visual) for f in features]),
            "audio": torch.stack([torch.from_numpy(f.audio) for f in features]),
        }
        return {name: tensor.to(device) for name, tensor in batch.items()}

    def text(self, ids: Sequence[int]) -> str:
        """Decode sampled ids, special tokens left out."""
        decoded = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return str(decoded)
