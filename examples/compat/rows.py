"""The rows that every check gives to its tool, and what this project itself makes of them."""

from __future__ import annotations

from typing import Any, NamedTuple

from affectgpt_r1.rewards import RewardBreakdown, RewardRule
from affectgpt_r1.rewards.adapters import EmotionReward


class Row(NamedTuple):
    """A completion and its row's labels."""

    completion: str
    labels: list[str] | str


ROWS = (
    Row("<answer>happy, relieved</answer>", ["joyful", "relieved"]),
    Row("<answer>happy, glad, cheerful, proud, calm</answer>", "happy"),  # more than the labels
    Row("<answer>sad</answer>", '["sad", "disappointed"]'),
    Row("<answer>angry</answer>", ["happy"]),
    Row("The character's emotional state is angry, upset.", ["angry", "frustrated"]),  # no tags
    Row("I think she might be sad.", ["sad"]),
    Row("<think>Her voice is low.</think><answer>sad</answer>", ["sad"]),  # not asked to think
    Row("<answer></answer>", ["worried"]),
    Row("", ["worried"]),
    Row("<answer>sad</answer>", ["qwertyuiop"]),  # in no lexicon
)
UNKNOWN = len(ROWS) - 1


def expected(**rule: Any) -> list[RewardBreakdown]:
    """Each row's reward, with p3 unless the rule says otherwise."""
    reward = EmotionReward(RewardRule(**{"length_penalty": "p3", **rule}))
    return [reward.breakdown(*row) for row in ROWS]


def tokenizer() -> Any:
    """A tokenizer of bytes with ChatML's special tokens, for tools that decode completions."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    plain = Tokenizer(models.BPE({letter: at for at, letter in enumerate(alphabet)}, []))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
