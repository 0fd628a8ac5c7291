"""The feature cache: what is read is what was written, whatever happened to the folder."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectgpt_r1.errors import InputError
from affectgpt_r1.perception.cache import FeatureCache
from affectgpt_r1.perception.features import Features


def features(seed: int, *, has_audio: bool = True, flags: frozenset[str] = frozenset()) -> Features:
    rng = np.random.default_rng(seed)
    return Features(
        visual=rng.normal(size=(8, 12)).astype(np.float32),
        audio=rng.normal(size=(8, 6)).astype(np.float32) * has_audio,
        has_visual=True,
        has_audio=has_audio,
        flags=flags,
        key=f"{seed:064x}",
    )


def same(one: Features | None, other: Features) -> bool:
    return (
        one is not None
        and np.array_equal(one.visual, other.visual)
        and np.array_equal(one.audio, other.audio)
        and (one.has_visual, one.has_audio, one.flags, one.key)
        == (other.has_visual, other.has_audio, other.flags, other.key)
    )


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    kept = features(3, has_audio=False, flags=frozenset({"no audio", "短"}))
    cache = FeatureCache(tmp_path / "cache")
    assert cache.get(kept.key) is None
    cache.put(kept)
    found = FeatureCache(tmp_path / "cache").get(kept.key)
    assert same(found, kept)
    assert same(cache.get(kept.key), kept)
    assert cache.damaged == 0


def test_files_are_sharded_and_nothing_else_is_left(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    kept = features(1)
    cache.put(kept)
    cache.put(kept)
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [Path("loose/00") / f"{kept.key}.safetensors"]


def test_views_of_arrays_are_kept_by_their_values(tmp_path: Path) -> None:
    whole = features(1)
    part = Features(
        visual=whole.visual.T[:8].T,
        audio=whole.audio[::-1],
        has_visual=True,
        has_audio=True,
        flags=frozenset(),
        key=whole.key,
    )
    cache = FeatureCache(tmp_path)
    cache.put(part)
    assert same(cache.get(part.key), part)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_file_with_a_flipped_bit_is_found_removed_and_counted(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    cache, kept = FeatureCache(tmp_path_factory.mktemp("cache")), features(7)
    cache.put(kept)
    path = cache.path(kept.key)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    assert cache.get(kept.key) is None
    assert cache.damaged == 1
    assert not path.exists()
    cache.put(kept)
    assert same(cache.get(kept.key), kept)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short_is_damaged(tmp_path: Path, share: float) -> None:
    cache, kept = FeatureCache(tmp_path), features(7)
    cache.put(kept)
    path = cache.path(kept.key)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert cache.get(kept.key) is None
    assert cache.damaged == 1
    assert not path.exists()


def test_a_file_under_another_key_is_damaged(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put(features(1))
    cache.path(features(1).key).rename(cache.path(features(2).key))
    assert cache.get(features(2).key) is None
    assert cache.damaged == 1


def test_a_folder_that_cannot_be_used_is_an_error_of_the_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"{tmp_path}.* cannot be written"):
        FeatureCache(tmp_path / "file").put(features(1))
    cache = FeatureCache(tmp_path)
    cache.path(features(1).key).mkdir(parents=True)
    with pytest.raises(InputError, match=f"{tmp_path}.* cannot be written"):
        cache.put(features(1))
    assert list(tmp_path.rglob("*.tmp")) == []
    with pytest.raises(InputError, match="cannot read the cache"):
        cache.get(features(1).key)


def _write_and_read(folder: Path, seed: int) -> tuple[int, int]:
    """Write twelve keys in an order of one's own, reading all the while; (wrong, damaged)."""
    cache, wrong = FeatureCache(folder), 0
    for key in np.random.default_rng(seed).permutation(12).tolist():
        cache.put(features(key))
        for other in range(12):
            found = cache.get(features(other).key)
            wrong += found is not None and not same(found, features(other))
    return wrong, cache.damaged


def test_many_writers_of_the_same_keys_do_no_harm(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(_write_and_read, [tmp_path] * 4, range(4)))
    assert results == [(0, 0)] * 4
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {f"{features(key).key}.safetensors" for key in range(12)}


def test_a_file_of_another_owner_is_named_in_the_error(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("the superuser may read everything")
    cache = FeatureCache(tmp_path)
    cache.put(features(1))
    cache.path(features(1).key).chmod(0)
    with pytest.raises(InputError, match="name another folder"):
        cache.get(features(1).key)
