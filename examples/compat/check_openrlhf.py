"""OpenRLHF: its loader of `--reward.remote_url FILE.py` and the code around each call.

Its executor of one turn, which loads the file, asks an engine for a completion, decodes prompt and
completion with their special tokens, calls the function in a thread and reads what comes back. The
engine here answers with the rows' completions: vLLM, Ray and DeepSpeed need a GPU and are not
installed; nothing was trained.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from openrlhf.utils.agent import SingleTurnAgentExecutor

from rows import ROWS, UNKNOWN, expected, tokenizer

EXAMPLE = Path(__file__).resolve().parents[1] / "openrlhf_reward.py"
PROMPT = "<|im_start|>user\nHow does she feel? Answer{}.<|im_end|>\n<|im_start|>assistant\n"


def main() -> None:
    """Every row with a short prompt and with one that OpenRLHF cuts; then a row that fails."""
    executor = SingleTurnAgentExecutor([str(EXAMPLE)])
    for prompt in (PROMPT.format(""), PROMPT.format(" in a word or more" * 40)):
        for at, (row, expects) in enumerate(zip(ROWS, expected(), strict=True)):
            given = asyncio.run(executed(executor, prompt, row.completion, row.labels))
            # As its trainer stores them.
            stored = torch.tensor([given["reward"]]), torch.tensor([given["scores"]])
            assert stored[0].dtype == stored[1].dtype == torch.float32
            terms = {name: value or 0.0 for name, value in asdict(expects).items()}
            assert given["reward"] == terms.pop("total"), (at, given)
            assert given["scores"] == terms["accuracy"], (at, given)
            assert given["extra_logs"] == {**terms, "judged": float(at != UNKNOWN)}, (at, given)
    told = Told()
    logging.getLogger().addHandler(told)
    given = asyncio.run(executed(executor, PROMPT.format(""), "<answer>sad</answer>", ""))
    assert given["reward"] is None
    assert any("without labels" in text and "Traceback" in text for text in told.texts), told.texts
    print(
        f"openrlhf {version('openrlhf')}: ok, {len(ROWS)} rows with whole and with cut prompts "
        "through SingleTurnAgentExecutor: loader, queries, rewards, scores, logs; a fault is told"
    )


async def executed(
    executor: SingleTurnAgentExecutor, prompt: str, completion: str, labels: list[str] | str
) -> Any:
    """What the executor makes of a prompt that is answered with the completion."""
    words = tokenizer()
    ids = [*words(completion, add_special_tokens=False).input_ids, words.eos_token_id]
    output = SimpleNamespace(token_ids=ids, finish_reason="stop", logprobs=None)

    class Engine:
        async def generate(self, *args: object, **kwargs: object) -> Any:
            return SimpleNamespace(outputs=[output])

    sampling = SimpleNamespace(max_tokens=128, logprobs=None)
    return await executor.execute(prompt, labels, sampling, 256, words, Engine())


class Told(logging.Handler):
    """Keeps what was logged, tracebacks included."""

    def __init__(self) -> None:
        """Nothing told yet."""
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it as a person would read it."""
        self.texts.append(self.format(record))


if __name__ == "__main__":
    main()
