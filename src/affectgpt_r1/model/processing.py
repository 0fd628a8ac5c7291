"""From subtitles, questions and features to a model's batch, and back to text.

Placeholders are positions that the template builder knows; no token is added to a vocabulary and
nothing is searched for in user text (MODEL.md, "Ours"). Padding is known from masks, never from
`ids != pad`, since pad and end are one token.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
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
        bos_at_inference: whether a prompt for sampling begins with the beginning token, as it does
            in training (MODEL.md, "Ours"; the authors' checkpoint: false).
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
        without: Collection[Part] = (),
        training: bool = False,
    ) -> TokenisedPrompt:
        """A clip's prompt: with the parts that it has, but for those in `without`.

        Args:
            subtitle, features: the clip's.
            view, mode: as in `dialogue.prompt_pieces`.
            without: parts that are left out.
            training: as in `prompt`.
        """
        pieces = prompt_pieces(
            subtitle,
            mode=mode,
            view=view,
            has_audio=features.has_audio and Part.VOICE not in without,
            has_visual=features.has_visual and Part.FACE not in without,
            has_subtitle=Part.WORDS not in without,
        )
        return self.prompt(pieces, training=training)

    def prompt(self, pieces: Sequence[PromptPiece], *, training: bool = False) -> TokenisedPrompt:
        """Tokenise a prompt's pieces one by one and join the ids.

        Args:
            pieces: from `dialogue.prompt_pieces`; one of them, the subtitle, is the user's.
            training: a training sequence always begins with the beginning token (MODEL.md).
        """
        begins = (training or self.bos_at_inference) and self.tokenizer.bos_token_id is not None
        ids = [[self.tokenizer.bos_token_id] if begins else []]
        ids += [self._ids(p.text) if isinstance(p, Text) else [0] for p in pieces]
        marks = [0, *(0 if isinstance(p, Text) else MODALITY_INDEX[p] for p in pieces)]
        surplus = max(sum(map(len, ids)) - self.max_prompt_tokens, 0)
        for place, piece in enumerate(pieces, start=1):
            if isinstance(piece, Text) and not piece.trusted:
                # The user's text gives way, the question stays.
                ids[place] = ids[place][: max(len(ids[place]) - surplus, 0)]
        modality = tuple(mark for own, mark in zip(ids, marks, strict=True) for _ in own)
        return TokenisedPrompt(tuple(chain(*ids)), modality, surplus > 0)

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
        return int(self.tokenizer.eos_token_id)

    def _ids(self, text: str) -> list[int]:
        # Text that looks like a special token is split, so that no subtitle can end the prompt.
        whole = text.encode(errors="replace").decode()  # half a character is none
        return self.tokenizer.encode(whole, add_special_tokens=False, split_special_tokens=True)

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
        pad = partial(pad_sequence, batch_first=True, padding_side="left")
        ids = [torch.tensor(prompt.ids) for prompt in prompts]
        batch = {
            "input_ids": pad(ids),
            "attention_mask": pad([torch.ones_like(row) for row in ids]),
            "modality": pad([torch.tensor(prompt.modality) for prompt in prompts]),
            "visual": torch.stack([torch.from_numpy(f.visual) for f in features]),
            "audio": torch.stack([torch.from_numpy(f.audio) for f in features]),
        }
        return {name: tensor.to(device) for name, tensor in batch.items()}

    def text(self, ids: Sequence[int]) -> str:
        """Decode sampled ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
