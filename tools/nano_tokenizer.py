"""Make the nano profile's tokenizer: a byte-level BPE trained on prompt and wheel words.

    PYTHONPATH=src python tools/nano_tokenizer.py

Writes `tokenizer.json` and `tokenizer_config.json`, beside the `config.json` of the nano profile's
language model. Another tokenizer makes every nano model another one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from affectgpt_r1.dialogue import QUESTIONS, STOP, Text, prompt_pieces
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.model.profiles import NANO_FOLDER


def main() -> None:
    """Read the arguments, train the tokenizer, write it."""
    parser = argparse.ArgumentParser(description="Make the nano profile's tokenizer.")
    parser.add_argument("--output", type=Path, default=NANO_FOLDER, help="default: the package's")
    output = parser.parse_args().output
    vocabulary = json.loads((NANO_FOLDER / "config.json").read_text())["vocab_size"]
    tokenizer = trained(vocabulary)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(output)


def trained(vocabulary: int) -> Tokenizer:
    """Train a tokenizer of so many pieces, the beginning and the end token among them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # The wheels' words are facts; the thesaurus grows, and would make every nano model another one.
    wheels = Lexicon.load("builtin").tables.wheels
    words = ", ".join(sorted({word for first, _ in wheels for word in first}))
    prompts = [
        piece.text
        for mode in QUESTIONS
        for piece in prompt_pieces("", mode=mode)
        if isinstance(piece, Text)
    ]
    blocks = f"<think></think><answer></answer>{STOP}"
    tokenizer.train_from_iterator([*prompts * 8, *[blocks] * 8, words], trainer)
    return tokenizer


if __name__ == "__main__":
    main()
