"""TRL 1.16's own GRPO loss, given the same policy, prompts, completions and advantages."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from affectgpt_r1.model.profiles import NANO_FOLDER, nano_language_model
from trl_pair import LOSSES, Case, our_outcome, our_trainer, trl_outcome, trl_trainer


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_loss_and_gradient_are_those_of_trl(loss_type: str, beta: float, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(NANO_FOLDER)
    language_model = nano_language_model(seed=0)
    prompts = [list(range(20, 50)), list(range(70, 90)), list(range(100, 141))]
    case = Case.random(prompts, group=4, longest=9, vocabulary=len(tokenizer))
    settings: dict[str, Any] = {"group": 4, "longest": 12, "loss_type": loss_type, "beta": beta}
    ours = our_trainer(deepcopy(language_model), tokenizer, tmp_path / "ours", **settings)
    theirs = trl_trainer(
        language_model, tokenizer, tmp_path / "trl", prompts=["a", "b", "c"], **settings
    )
    one = our_outcome(ours, case)
    other = trl_outcome(theirs, case, tokenizer.pad_token_id)
    loss, gradient = one.difference(other)
    assert len(one.gradient) == 2 * 7 * 2
    assert all(float(tensor.abs().max()) > 0 for tensor in one.gradient.values())
    assert loss < 1e-5
    assert gradient < 1e-4
