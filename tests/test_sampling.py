"""Sampling: repeatable by completion, whatever the batch; greedy equals transformers'."""

from __future__ import annotations

import torch
from transformers import GenerationConfig

from affectgpt_r1.dialogue import prompt_pieces
from affectgpt_r1.model.sampling import (
    Sample,
    SamplingSettings,
    _continue,
    draw,
    sample,
    seed_of,
)
from tiny import features, fill_adapter, prompt_batch, tiny_model

SETTINGS = SamplingSettings(max_new_tokens=12, temperature=1.0)


def test_greedy_sampling_is_transformers_own() -> None:
    model, processor = tiny_model()
    batch = prompt_batch(processor)
    ours = sample(
        model, processor, batch, seeds=[[0], [1]], settings=SamplingSettings(6, temperature=0)
    )
    theirs = model.generate(**batch, max_new_tokens=6, do_sample=False)
    new = theirs[:, batch["input_ids"].shape[1] :].tolist()
    assert [list(row[0].ids) for row in ours] == new


def test_a_completion_does_not_depend_on_its_batch() -> None:
    model, processor = tiny_model()
    model = model.double().eval()
    subtitles = ("Oh.", "Well, I did not expect it.", "No")
    together = sample(
        model,
        processor,
        prompt_batch(processor, subtitles),
        seeds=[[seed_of(text, g) for g in range(4)] for text in subtitles],
        settings=SETTINGS,
    )
    for place, text in enumerate(subtitles):
        prompt = processor.prompt(prompt_pieces(text))
        alone = sample(
            model,
            processor,
            processor.batch([prompt], [features(place)]),
            seeds=[[seed_of(text, 2)]],
            settings=SETTINGS,
        )
        assert alone[0][0].ids == together[place][2].ids


def test_caches_of_fixed_size_draw_what_growing_ones_draw() -> None:
    model, processor = tiny_model()
    fill_adapter(model.double().eval(), 0.2)
    batch, seeds = prompt_batch(processor), range(6)  # ends fall on different tokens
    for settings in (
        SamplingSettings(24, 0.9, top_p=0.95),
        SamplingSettings(40, temperature=0),
        SamplingSettings(2),
    ):
        with torch.no_grad():
            growing = _continue(model, processor, batch, seeds, settings, fixed=False)
            fixed = _continue(model, processor, batch, seeds, settings, fixed=True)
        assert [s.ids for s in fixed] == [s.ids for s in growing]
        for one, other in zip(fixed, growing, strict=True):
            assert torch.allclose(torch.tensor(one.logprobs), torch.tensor(other.logprobs))


def test_caches_of_fixed_size_draw_the_same_in_autocast_too() -> None:
    model, processor = tiny_model()
    fill_adapter(model.eval(), 0.2)
    batch, settings = prompt_batch(processor), SamplingSettings(24, 0.9)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        growing = _continue(model, processor, batch, range(6), settings, fixed=False)
        fixed = _continue(model, processor, batch, range(6), settings, fixed=True)
    assert [s.ids for s in fixed] == [s.ids for s in growing]


def test_other_seeds_make_other_completions() -> None:
    model, processor = tiny_model()
    (group,) = sample(
        model, processor, prompt_batch(processor, ("Oh.",)), seeds=[[1, 2, 3, 1]], settings=SETTINGS
    )
    assert len({s.ids for s in group}) == 3
    assert group[0].ids == group[3].ids


def test_a_completion_ends_at_the_end_token_or_is_cut() -> None:
    model, processor = tiny_model()
    with torch.no_grad():  # every token is as likely as the end
        model.language_model.lm_head.weight.zero_()
    (group,) = sample(
        model,
        processor,
        prompt_batch(processor, ("Oh.",)),
        seeds=[list(range(200))],
        settings=SamplingSettings(24),
    )
    for drawn in group:
        ended = drawn.ids[-1] == processor.end_id or "###" in processor.text(drawn.ids)
        assert drawn.finished == ended
        assert processor.end_id not in drawn.ids[:-1]
        assert drawn.finished or len(drawn.ids) == 24
    assert {s.finished for s in group} == {True, False}


def test_the_stop_string_ends_a_completion() -> None:
    model, processor = tiny_model()
    with torch.no_grad():
        model.language_model.lm_head.weight.zero_()
    settings = SamplingSettings(8)
    (group,) = sample(
        model,
        processor,
        prompt_batch(processor, ("Oh.",)),
        seeds=[list(range(200))],
        settings=settings,
    )
    stopped = [s for s in group if "###" in processor.text(s.ids)]
    assert stopped
    # A piece of the vocabulary may hold more than the stop string ("answer>###").
    assert all(s.finished and "###" not in processor.text(s.ids[:-1]) for s in stopped)


def test_draws_follow_the_distribution() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    uniform = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    tokens, logprobs = draw(logits.expand(10_000, -1), uniform, SamplingSettings(1, 1.0))
    shares = torch.bincount(tokens, minlength=4) / 10_000
    assert (shares - logits.softmax(0)).abs().max() < 1e-3
    assert torch.allclose(logprobs.float(), logits.log_softmax(0)[tokens], atol=1e-6)


def test_top_k_and_top_p_cut_the_tail() -> None:
    logits = torch.tensor([3.0, 1.0, 2.0, -1.0]).expand(1000, -1)
    uniform = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    top_k, _ = draw(logits, uniform, SamplingSettings(1, 1.0, top_k=2))
    assert set(top_k.tolist()) == {0, 2}
    top_p, _ = draw(logits, uniform, SamplingSettings(1, 1.0, top_p=0.5))
    assert set(top_p.tolist()) == {0}


def test_cuts_leave_what_transformers_leaves_in_a_flat_distribution() -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(0)) / 10
    uniform = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    model, _ = tiny_model()
    for top_k, top_p in ((10, 0.9), (10, 0.5), (0, 0.3), (7, 1.0)):
        tokens, _ = draw(logits.expand(20_000, -1), uniform, SamplingSettings(1, 1.0, top_p, top_k))
        config = GenerationConfig(do_sample=True, top_k=top_k, top_p=top_p)
        warpers = model._get_logits_processor(config)
        theirs = warpers(torch.zeros(1, 1, dtype=torch.long), logits[None]).softmax(-1)[0]
        assert (torch.bincount(tokens, minlength=50) / 20_000 - theirs).abs().max() < 1e-3


def test_the_largest_uniform_number_draws_a_possible_token() -> None:
    logits = torch.tensor([[0.0, float("-inf"), 0.0, float("-inf")]])
    almost = torch.tensor([1 - 2**-53], dtype=torch.float64)
    tokens, _ = draw(logits, almost, SamplingSettings(1, 1.0))
    assert tokens.tolist() == [2]


def test_logprobs_have_one_value_a_token() -> None:
    model, processor = tiny_model()
    groups: list[list[Sample]] = sample(
        model, processor, prompt_batch(processor), seeds=[[0, 1], [2, 3]], settings=SETTINGS
    )
    assert all(len(s.ids) == len(s.logprobs) for group in groups for s in group)
    assert all(value <= 0 for group in groups for s in group for value in s.logprobs)


def test_first_tokens_follow_the_softmax() -> None:
    model, processor = tiny_model()
    batch = prompt_batch(processor, ("Oh.",))
    draws, classes = 4000, 100
    (group,) = sample(
        model, processor, batch, seeds=[list(range(draws))], settings=SamplingSettings(1, 0.7)
    )
    with torch.no_grad():
        probabilities = (model(**batch).logits[0, -1] / 0.7).double().softmax(-1)
    # Neighbouring tokens as one class: some 40 draws are expected in each.
    of_token = (probabilities.cumsum(0) * classes).long().clamp(max=classes - 1)
    expected = torch.zeros(classes).double().index_add(0, of_token, probabilities) * draws
    drawn = of_token[torch.tensor([s.ids[0] for s in group])]
    observed = torch.bincount(drawn, minlength=classes)
    statistic = float(((observed - expected) ** 2 / expected).sum())
    freedom = classes - 1
    # 99.9 % quantile of chi-square, by Wilson and Hilferty.
    limit = freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3
    assert expected.min() > 5
    assert statistic < limit


def test_prompts_are_computed_once_and_a_token_a_row_then() -> None:
    model, processor = tiny_model()
    batch = prompt_batch(processor)
    rows: list[tuple[int, ...]] = []
    first = model.language_model.model.layers[0]
    first.register_forward_hook(lambda *call: rows.append(tuple(call[1][0].shape[:2])))
    (one, two) = sample(
        model, processor, batch, seeds=[[1, 2, 3], [4, 5, 6]], settings=SamplingSettings(6)
    )
    assert rows[0] == (2, batch["input_ids"].shape[1])
    assert all(length == 1 for _, length in rows[1:])
    lengths = [len(s.ids) for s in (*one, *two)]
    assert [count for count, _ in rows[1:]] == [
        sum(length > step for length in lengths) for step in range(1, max(lengths))
    ]
