"""The built-in lexicon in the package is the one that its sources make."""

from __future__ import annotations

from builtin_lexicon import BUILTIN, compiled


def test_the_packages_lexicon_is_compiled_from_its_sources() -> None:
    assert BUILTIN.read_text(encoding="utf-8") == compiled()
