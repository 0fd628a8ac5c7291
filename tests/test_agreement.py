"""The built-in lexicon and the lexical rules against the authors' tables and a 7B model."""

from __future__ import annotations

from pathlib import Path

from agreement import extraction_rows, lexicon_rows


def test_the_builtin_lexicon_agrees_with_the_authors_tables_and_knows_more(
    shared_dir: Path,
) -> None:
    hit, f, correlation, *known, sentiments, waf = lexicon_rows(shared_dir)
    assert abs(hit.ours - hit.theirs) <= 0.02
    assert abs(f.ours - f.theirs) <= 0.02
    assert correlation.ours >= 0.90
    assert all(row.ours >= 0.97 > row.theirs for row in known)
    assert sentiments.ours >= 0.93
    assert abs(waf.ours - waf.theirs) <= 0.01


def test_rules_take_better_words_out_of_a_description_than_its_last_sentence(
    shared_dir: Path,
) -> None:
    for row in extraction_rows(shared_dir):
        assert row.ours >= 0.65
        assert row.low is not None
        assert row.low > 0
