"""Packing, checking and throwing out: a cache never loses what it should keep."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectgpt_r1.errors import InputError
from affectgpt_r1.perception import cache as caching
from affectgpt_r1.perception.cache import EntryFile, FeatureCache
from test_feature_cache import features, same


def filled(folder: Path, count: int = 12) -> FeatureCache:
    cache = FeatureCache(folder)
    for seed in range(count):
        cache.put(features(seed, flags=frozenset({"short"} if seed % 2 else set())))
    return cache


def kept(folder: Path, count: int = 12) -> int:
    """How many are there, each compared with what was put; read as another process would."""
    cache = FeatureCache(folder)
    found = [(cache.get(features(seed).key), seed) for seed in range(count)]
    for entry, seed in found:
        flags = frozenset({"short"} if seed % 2 else set())
        assert entry is None or same(entry, features(seed, flags=flags))
    return sum(entry is not None for entry, _ in found)


def test_packing_keeps_every_entry_in_fewer_files(tmp_path: Path) -> None:
    before = filled(tmp_path).contents()
    assert (before.clips, before.shards, before.loose) == (12, 0, 12)
    after = FeatureCache(tmp_path).compact()
    assert (after.clips, after.shards, after.loose, after.dropped) == (12, 1, 0, 0)
    assert after.size_bytes < before.size_bytes
    assert kept(tmp_path) == 12
    assert list(tmp_path.rglob("*.tmp")) == []


def test_an_open_cache_finds_what_another_has_packed(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    reader = FeatureCache(tmp_path)
    assert same(reader.get(features(0).key), features(0))
    cache.compact()
    assert all(reader.get(features(seed).key) for seed in range(12))


def test_packing_again_changes_nothing_and_small_shards_become_one(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    cache.compact()
    (shard,) = cache.shards()
    stamp = shard.stat().st_mtime_ns
    FeatureCache(tmp_path).compact()
    assert cache.shards() == [shard]
    assert shard.stat().st_mtime_ns == stamp
    FeatureCache(tmp_path).put(features(12))
    after = FeatureCache(tmp_path).compact()
    assert (after.clips, after.shards, after.loose) == (13, 1, 0)


def test_full_shards_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "SHARD_CLIPS", 5)
    cache = filled(tmp_path)
    cache.compact()
    assert sorted(len(file.keys) for p in cache.shards() if (file := cache.opened(p))) == [2, 5, 5]
    stamps = {path: path.stat().st_mtime_ns for path in cache.shards()}
    FeatureCache(tmp_path).put(features(12))
    FeatureCache(tmp_path).compact()
    left = [path for path, stamp in stamps.items() if path.exists()]
    assert len(left) == 2
    assert all(path.stat().st_mtime_ns == stamps[path] for path in left)
    assert kept(tmp_path) == 12


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_flipped_bit_in_a_shard_costs_no_other_entry_its_value(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    cache = filled(folder, 4)
    cache.compact()
    (shard,) = cache.shards()
    content = bytearray(shard.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    shard.write_bytes(content)
    reader = FeatureCache(folder)
    found = [reader.get(features(seed).key) for seed in range(4)]
    assert kept(folder, 4) == sum(entry is not None for entry in found) < 4
    assert reader.damaged >= 1
    for seed in range(4):
        if found[seed] is None:
            reader.put(features(seed, flags=frozenset({"short"} if seed % 2 else set())))
    assert kept(folder, 4) == 4
    after = FeatureCache(folder).compact()
    assert (after.clips, after.loose) == (4, 0)
    assert FeatureCache(folder).verify().damaged == 0
    assert kept(folder, 4) == 4


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_torn_shard_is_removed_and_counted(tmp_path: Path, share: float) -> None:
    cache = filled(tmp_path)
    cache.compact()
    (shard,) = cache.shards()
    content = shard.read_bytes()
    for look in (FeatureCache.contents, FeatureCache.verify):
        shard.write_bytes(content[: int(len(content) * share)])
        found = look(FeatureCache(tmp_path))
        assert (found.damaged, found.clips, found.shards) == (1, 0, 0)
    assert kept(tmp_path) == 0


def test_throwing_out_keeps_what_is_asked_for(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    cache.compact()
    cache.put(features(12))
    keep = {features(seed).key for seed in (1, 5, 12, 99)}
    after = FeatureCache(tmp_path).compact(keep)
    assert (after.clips, after.dropped) == (3, 10)
    assert kept(tmp_path) == 2
    assert FeatureCache(tmp_path).get(features(12).key)
    assert FeatureCache(tmp_path).compact(set()).clips == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_a_dead_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    cache = filled(tmp_path, 1)
    old, new = (cache.path(features(0).key).with_suffix(f".{name}.tmp") for name in "ab")
    old.touch()
    os.utime(old, (0, 0))
    new.touch()
    cache.compact()
    assert (old.exists(), new.exists()) == (False, True)


def test_what_cannot_be_read_is_told_and_not_thrown_out(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    cache.compact()
    (tmp_path / "shards" / "a.safetensors").mkdir()
    for look in (FeatureCache.compact, FeatureCache.verify):
        with pytest.raises(InputError, match="cannot read the cache"):
            look(FeatureCache(tmp_path))
    (tmp_path / "shards" / "a.safetensors").rmdir()
    assert kept(tmp_path) == 12


def test_nothing_but_the_caches_own_files_is_touched(tmp_path: Path) -> None:
    cache = filled(tmp_path, 2)
    (tmp_path / "mine").mkdir()
    mine = [
        tmp_path / "old.tmp",
        tmp_path / "mine" / "old.tmp",
        tmp_path / "mine" / "a.safetensors",
    ]
    for path in mine:
        path.touch()
        os.utime(path, (0, 0))
    cache.compact(set())
    assert all(path.exists() for path in mine)


def test_a_shard_that_is_packed_anew_while_it_is_known_is_read_from_its_new_place(
    tmp_path: Path,
) -> None:
    filled(tmp_path, 4).compact()
    reader = FeatureCache(tmp_path)
    assert reader.holds(features(0).key)  # listed, and not opened
    FeatureCache(tmp_path).put(features(5, flags=frozenset({"short"})))
    FeatureCache(tmp_path).compact()
    assert same(reader.get(features(0).key), features(0))
    assert reader.damaged == 0


def test_a_file_that_is_packed_between_being_opened_and_being_read_is_no_fault(
    tmp_path: Path,
) -> None:
    class Late(FeatureCache):
        """Another packs all there is as soon as a file is opened here."""

        def opened(self, path: Path) -> EntryFile | None:
            file = super().opened(path)
            FeatureCache(self.folder).compact()
            return file

    one, other, third = (Late(filled(tmp_path / name, 4).folder) for name in "abc")
    assert same(one.get(features(0).key), features(0))
    other.compact()
    third.verify()
    for cache in (one, other, third):
        assert (kept(cache.folder, 4), cache.damaged) == (4, 0)


def _write_and_pack(folder: Path, seed: int) -> int:
    """Put twelve keys in an order of one's own, packing and reading; how many lack."""
    cache, lacking = FeatureCache(folder), 0
    for place, key in enumerate(np.random.default_rng(seed).permutation(12).tolist()):
        cache.put(features(key))
        if place % 3 == seed % 3:
            FeatureCache(folder).compact()
        lacking += not same(cache.get(features(key).key), features(key))
    return lacking


def test_writers_and_packers_at_once_lose_nothing(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(_write_and_pack, [tmp_path] * 6, range(6))) == [0] * 6
    after = FeatureCache(tmp_path).compact()
    assert (after.clips, after.damaged, after.shards, after.loose) == (12, 0, 1, 0)


def test_a_packer_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, os; from pathlib import Path\n"
        "from affectgpt_r1.perception.cache import FeatureCache\n"
        "unlink, left = Path.unlink, [5]\n"
        "def dying(path, missing_ok=False):\n"
        "    left[0] -= path.name.endswith('.safetensors')\n"
        "    os.kill(os.getpid(), 9) if left[0] < 0 else unlink(path, missing_ok)\n"
        "Path.unlink = dying\n"
        "FeatureCache(Path(sys.argv[1])).compact()"
    )
    filled(tmp_path)
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode == -9
    assert len(FeatureCache(tmp_path).loose()) == 7
    assert kept(tmp_path) == 12
    after = FeatureCache(tmp_path).compact()
    assert (after.clips, after.shards, after.loose, after.dropped) == (12, 1, 0, 0)
    assert kept(tmp_path) == 12


def test_a_part_is_packed_without_the_rest(tmp_path: Path) -> None:
    cache = filled(tmp_path)
    cache.pack([cache.path(features(seed).key) for seed in range(5)])
    found = FeatureCache(tmp_path).contents()
    assert (found.clips, found.shards, found.loose) == (12, 1, 7)
    assert kept(tmp_path) == 12
