"""Tables of the paper's claims: cells with a name each, runs that go on, verdicts that can fail."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from affectgpt_r1.clips import Clip, read_manifest, write_manifest
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import InputError, MissingFileError, RecipeError
from affectgpt_r1_demo.clips import demo_lines, write_demo
from affectgpt_r1_reproduction.command import reproduce
from affectgpt_r1_reproduction.grounds import FOLDS, encode, prepare, share_of
from affectgpt_r1_reproduction.pages import write_page
from affectgpt_r1_reproduction.pictures import picture
from affectgpt_r1_reproduction.plan import CONSTANT, Claim, Table, cells, load_table, table_names
from affectgpt_r1_reproduction.results import Found, found_of
from affectgpt_r1_reproduction.running import _curves
from affectgpt_r1_reproduction.verdicts import Ground
from test_media import write_sound

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs/reproduction"
TINY: dict[str, Any] = {
    "title": "Tiny",
    "about": "A few updates.",
    "ground": "demo",
    "cold_start": "demo-cold-start",
    "grpo": "demo-grpo",
    "seeds": [1, 2],
    "mode": "answer",
    "baseline": "GRPO",
    "settings": {
        "cold start only": {"rl": False},
        "GRPO": {"paper": 66.49},
        "judged": {"grpo": {"rewards.perception": 0.2, "judge.model": "cold-start"}},
    },
    "claims": [{"says": "GRPO helps", "contrast": {"GRPO": 1, "cold start only": -1}}],
}
QUICK = {"cold_start": {"optimizer.max_steps": 4}, "grpo": {"optimizer.max_steps": 2}}


def quick(table: dict[str, Any]) -> dict[str, Any]:
    """The same table with a few updates a run."""
    shortened = {
        name: setting | {kind: setting.get(kind, {}) | few for kind, few in QUICK.items()}
        for name, setting in table["settings"].items()
    }
    return table | {"settings": shortened}


def written(folder: Path, table: dict[str, Any], name: str = "tiny") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(table, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ground of a few drawn lines, laid out as `prepare` does."""
    out = tmp_path_factory.mktemp("out")
    chosen = [
        next(line for line in demo_lines() if line.split == split)
        for split in ("cold-start", "grpo", "test")
    ]
    made = write_demo(out / "demo/clips", lines=chosen, renderings=2, workers=1)
    (out / "demo/0").mkdir()
    for name, path in (("cold-start", made.cold_start), ("grpo", made.grpo), ("test", made.test)):
        write_manifest(out / f"demo/0/{name}.jsonl", read_manifest(path))
    (out / "demo/complete").touch()
    return out


def drawn_test_clips() -> list[Clip]:
    """The demo's test clips as the manifest has them, without drawing them."""
    return [
        Clip(id=f"{line.id}-{number}-0", labels=take.labels, group=line.id)
        for line in demo_lines()
        if line.split == "test"
        for number, take in enumerate(line.takes)
    ]


@pytest.mark.parametrize("name", table_names())
def test_a_packaged_table_loads_and_its_cells_are_apart(name: str) -> None:
    table = load_table(name)
    folds = FOLDS[table.ground]
    found = [cell for setting in table.settings for cell in cells(table, setting, folds)]
    assert len(found) == len(table.settings) * len(table.seeds) * folds
    assert len({cell.name for cell in found}) == len(found)
    assert len(table.seeds) >= 3
    assert table.claims


def test_settings_of_one_seed_share_their_cold_start() -> None:
    table = load_table("rewards")
    for seed in table.seeds:
        names = {
            cell.cold_start_name
            for setting in table.settings
            for cell in cells(table, setting, 1)
            if cell.seed == seed
        }
        assert len(names) == 1


def test_the_same_setting_of_two_tables_is_one_cell() -> None:
    def names(table: str, setting: str) -> list[str]:
        return [cell.name for cell in cells(load_table(table), setting, 1)]

    assert names("thinking", "thinking") == names("rewards", "accuracy + format")
    assert names("group-size", "G 8") == names("thinking", "answer alone")
    assert names("group-size", "G 8") != names("group-size", "G 4")


def test_where_things_lie_renames_no_cell(tmp_path: Path) -> None:
    table = load_table("rewards")
    elsewhere = {"data.train": "x.jsonl", "run.output": "y", "data.cache": "z"}
    moved = table.model_dump()
    moved["settings"]["accuracy"]["cold_start"] = elsewhere
    moved["settings"]["accuracy"]["grpo"] |= elsewhere | {"model": "m"}
    again = Table.model_validate_json(json.dumps(moved))
    assert [c.name for c in cells(again, "accuracy", 1)] == [
        c.name for c in cells(table, "accuracy", 1)
    ]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"claims": [{"says": "x", "contrast": {"nobody": 1}}]}, "no setting is called 'nobody'"),
        ({"baseline": "nobody"}, "no setting is called 'nobody'"),
        ({"sedes": [1]}, "'seeds' is meant"),
        ({"ground": "moon"}, "ground"),
    ],
)
def test_a_table_with_a_fault_is_refused_in_one_line(
    change: Mapping[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=told) as refused:
        load_table(str(written(tmp_path, TINY | dict(change))))
    assert "\n" not in str(refused.value)


def test_an_unknown_table_is_told_with_the_known_ones() -> None:
    with pytest.raises(MissingFileError, match="rewards"):
        load_table("moon")


def test_a_setting_that_no_recipe_knows_is_refused(tmp_path: Path) -> None:
    wrong = TINY | {"settings": TINY["settings"] | {"GRPO": {"grpo": {"rewards.luck": 1}}}}
    table = load_table(str(written(tmp_path, wrong)))
    with pytest.raises(RecipeError, match="luck"):
        list(cells(table, "GRPO", 1))


# Verdicts ---------------------------------------------------------------------------------------


def ground(count: int = 60) -> Ground:
    words = ("happy", "sad", "angry", "afraid")
    clips = [Clip(id=str(i), labels=(words[i % 4],), group=str(i // 2)) for i in range(count)]
    return Ground.of(clips, Lexicon.load())


def right(there: Ground, share: float, seed: int) -> list[tuple[str, ...]]:
    """Answers of which so many are the labels, and the rest say nothing."""
    rng = np.random.default_rng(seed)
    return [labels if rng.random() < share else () for labels in there.labels]


def verdict_of(claim: Claim, shares: Mapping[str, float], seeds: int = 5) -> str:
    there = ground()
    said = {
        name: {seed: right(there, share, 100 * seed + i) for seed in range(seeds)}
        for i, (name, share) in enumerate(shares.items())
    }
    (judged,) = there.judge([claim], said)
    return judged.verdict


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [(0.9, 0.3, "holds"), (0.3, 0.9, "does not hold"), (0.6, 0.6, "undecided")],
)
def test_a_verdict_follows_the_truth(a: float, b: float, verdict: str) -> None:
    assert verdict_of(Claim(says="", contrast={"a": 1, "b": -1}), {"a": a, "b": b}) == verdict


def test_no_worse_by_a_margin_is_weaker_than_better() -> None:
    close = {"a": 0.88, "b": 0.9}
    better = Claim(says="", contrast={"a": 1, "b": -1})
    assert verdict_of(better, close, 12) == "undecided"
    assert verdict_of(better.model_copy(update={"margin": 0.15}), close, 12) == "holds"


def test_one_lucky_seed_decides_nothing() -> None:
    there = ground()
    one = {seed: right(there, 0.5, seed) for seed in range(4)}
    other = dict(one) | {0: right(there, 0.0, 0)}
    (judged,) = there.judge([Claim(says="", contrast={"a": 1, "b": -1})], {"a": one, "b": other})
    assert judged.by_seed[1:] == (0.0, 0.0, 0.0)
    assert judged.verdict == "undecided"


def test_the_best_constant_answer_needs_no_run() -> None:
    there = ground()
    said = {"a": {seed: right(there, 1.0, seed) for seed in range(3)}}
    (judged,) = there.judge([Claim(says="", contrast={"a": 1, CONSTANT: -1})], said)
    assert judged.verdict == "holds"


def test_only_seeds_that_all_settings_have_are_compared() -> None:
    there = ground()
    said = {
        "a": {1: right(there, 0.9, 1), 2: right(there, 0.9, 2)},
        "b": {2: right(there, 0.1, 3), 3: right(there, 0.1, 4)},
    }
    claim = Claim(says="", contrast={"a": 1, "b": -1})
    assert len(there.judge([claim], said)[0].by_seed) == 1
    assert there.judge([claim], {"a": said["a"]}) == []


def test_words_and_coverage_are_means_over_answers() -> None:
    there = ground(4)
    answers: list[tuple[str, ...]] = [("glad", "xqzt"), ("sad",), ("angry", "mad", "hostile"), ()]
    value = {name: there.interval(name, {1: answers}).value for name in ("words", "coverage")}
    assert value == {"words": 6 / 4, "coverage": pytest.approx(5 / 6)}


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize(("by_seed", "by_both"), [(0.0, 0.0), (0.0, 5.0), (1.0, 5.0), (20.0, 0.0)])
def test_an_interval_holds_the_truth_nineteen_times_in_twenty(
    count: int, by_seed: float, by_both: float
) -> None:
    """Words an answer of 20 on average, apart by clip, by seed, and by both together."""
    there = Ground.of([Clip(id=str(i), labels=("happy",)) for i in range(40)], Lexicon.load())
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(300):
        lengths = 20 + rng.normal(0, 5, 40) + rng.normal(0, by_seed, (count, 1))
        lengths = np.rint(lengths + rng.normal(0, by_both, (count, 40))).clip(0).astype(int)
        said = {i: [("happy",) * n for n in row] for i, row in enumerate(lengths)}
        found = there.interval("words", said)
        missed += not found.low <= 20 <= found.high
    assert missed / 300 < 0.08


def test_a_claim_and_its_contrary_are_judged_alike() -> None:
    there = ground()
    said = {
        name: {seed: right(there, share + 0.1 * seed, 10 * seed + i) for seed in range(3)}
        for i, (name, share) in enumerate({"a": 0.6, "b": 0.3}.items())
    }
    claims = [Claim(says="", contrast={"a": sign, "b": -sign}) for sign in (1, -1)]
    one, other = (there.judge([claim], said)[0] for claim in claims)
    assert one.p == other.p
    assert (one.interval.low, one.interval.high) == pytest.approx(
        (-other.interval.high, -other.interval.low)
    )


def test_one_seed_alone_decides_nothing() -> None:
    assert verdict_of(Claim(says="", contrast={"a": 1, "b": -1}), {"a": 0.9, "b": 0.1}, 1) == (
        "undecided"
    )


# Runs -------------------------------------------------------------------------------------------


def comparable(folder: Path) -> dict[str, dict[str, Any]]:
    """The results in a folder, without what a clock measured."""
    return {
        path.name: {k: v for k, v in json.loads(path.read_text()).items() if k != "train_s"}
        for path in folder.glob("*.json")
    }


@pytest.fixture(scope="module")
def done(few: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The tiny table, run to its end."""
    docs = tmp_path_factory.mktemp("docs")
    table = written(docs, quick(TINY))
    return docs, reproduce(str(table), out=few, docs=docs, workers=2)


def test_a_table_runs_to_its_page(done: tuple[Path, dict[str, Any]]) -> None:
    docs, said = done
    assert said["missing"] == 0
    assert said["verdicts"].keys() == {"GRPO helps"}
    page = (docs / "tiny.md").read_text(encoding="utf-8")
    assert "| GRPO " in page
    assert "66.49" in page
    assert "GRPO helps" in (docs / "index.md").read_text(encoding="utf-8")
    rows = comparable(docs / "cells/demo")
    assert len(rows) == 6
    assert all(len(row["said"]) == len(row["ids"]) for row in rows.values())
    assert sum(bool(row["curves"]) for row in rows.values()) == 4  # those with a second phase


def test_a_picture_of_one_group_has_no_intervals_and_of_several_has(
    done: tuple[Path, dict[str, Any]],
) -> None:
    one = (done[0] / "tiny.svg").read_text(encoding="utf-8")
    table, there = load_table("length"), ground()
    said = {seed: right(there, 0.5, seed) for seed in range(3)}
    curves = {"curves": {"words_per_answer": [2.0, 3.0, 4.0]}}
    several = picture(table, there, {name: Found(said, [curves], 0) for name in table.settings})
    for text in (one, several):
        ElementTree.fromstring(text)
        assert "nan" not in text.split("</desc>")[1]
    whisker = 'stroke-width="2"/>'
    assert whisker not in one
    assert several.count(whisker) == len(table.settings)


def test_what_has_a_result_is_not_run_again(done: tuple[Path, dict[str, Any]], few: Path) -> None:
    docs, said = done
    before = {path: path.stat().st_mtime_ns for path in (docs / "cells/demo").iterdir()}
    assert reproduce(str(docs / "tiny.yaml"), out=few, docs=docs) == said
    assert {path: path.stat().st_mtime_ns for path in (docs / "cells/demo").iterdir()} == before


def test_a_table_that_is_begun_says_what_is_missing(
    few: Path, done: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    docs, _ = done
    part = reproduce(
        str(docs / "tiny.yaml"), out=few, docs=tmp_path, seeds=[1], settings=["cold start only"]
    )
    assert part["missing"] == 5
    assert part["verdicts"] == {}
    assert "5 cells have not been run" in (tmp_path / "tiny.md").read_text(encoding="utf-8")
    (kept,) = comparable(tmp_path / "cells/demo").items()
    assert comparable(docs / "cells/demo")[kept[0]] == kept[1]
    only = reproduce(str(docs / "tiny.yaml"), out=few, docs=tmp_path, page_only=True)
    assert only["missing"] == 5


def test_a_killed_table_goes_on_to_the_same_results(
    few: Path, done: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    docs, _ = done
    out = tmp_path / "out"
    out.mkdir()
    (out / "demo").symlink_to(few / "demo")
    call = "import sys; from affectgpt_r1.cli import main; main()"
    words = ["reproduce", str(docs / "tiny.yaml"), "--out", str(out), "--docs", str(tmp_path)]
    command = [sys.executable, "-c", call, *words]
    begun = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(out.glob("runs/*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    begun.kill()
    begun.wait()
    assert len(comparable(tmp_path / "cells/demo")) < 6
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=240)
    assert comparable(tmp_path / "cells/demo") == comparable(docs / "cells/demo")


def test_a_run_that_breaks_is_a_result_and_is_counted(few: Path, tmp_path: Path) -> None:
    wild = {"optimizer.learning_rate": 1e30, "optimizer.max_grad_norm": 0.0}
    table = quick(TINY | {"settings": dict(list(TINY["settings"].items())[:2]), "seeds": [1]})
    table["settings"]["GRPO"]["cold_start"] |= wild
    table["settings"]["beside it"] = table["settings"]["GRPO"] | {"grpo_share": 0.5}
    said = reproduce(str(written(tmp_path, table)), out=few, docs=tmp_path, workers=2)
    assert said["missing"] == 0
    assert said["verdicts"] == {}
    assert "**2 cells could not" in (tmp_path / "tiny.md").read_text(encoding="utf-8")
    kept = [row for row in comparable(tmp_path / "cells/demo").values() if "failed" in row]
    assert len(kept) == 2  # the cold start that they share breaks
    assert "loss" in kept[0]["failed"]
    assert str(few) not in "".join(p.read_text() for p in tmp_path.glob("cells/demo/*.json"))


def test_an_unknown_setting_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the table has cold start only, GRPO, judged"):
        reproduce(str(written(tmp_path, TINY)), out=tmp_path, docs=tmp_path, settings=["GRP"])
    with pytest.raises(InputError, match="has the seeds 1, 2, no others"):
        reproduce(str(written(tmp_path, TINY)), out=tmp_path, docs=tmp_path, seeds=[3])
    assert not (tmp_path / "cells").exists()


def test_what_no_update_could_tell_is_unknown_in_a_curve() -> None:
    rows: list[dict[str, Any]] = [{"words_per_answer": i} for i in range(20)]
    rows[1]["coverage"] = 0.5
    found = _curves(rows)
    assert found["coverage"] == [0.5, *[None] * 9]
    assert found["words_per_answer"] == [2 * i + 0.5 for i in range(10)]
    assert found.keys() == {"coverage", "words_per_answer"}


# Grounds ----------------------------------------------------------------------------------------


def untold(_: str) -> Any:
    return lambda *_: None


def test_folds_of_speech_hold_no_actor_twice(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    rng = np.random.default_rng(0)
    for actor in range(1, 11):
        folder = shared / f"ravdess_speech/Actor_{actor:02}"
        folder.mkdir(parents=True)
        for emotion in (3, 5):
            name = f"03-01-{emotion:02}-01-02-01-{actor:02}.ogg"
            write_sound(
                folder / name, "libopus", rng.normal(0, 0.1, (1, 48000)).astype(np.float32), 48000
            )
    folds = prepare("speech", tmp_path / "speech", shared, untold)
    assert len(folds) == 5
    encode(folds, untold)
    tested: list[str] = []
    for fold in folds:
        parts = [read_manifest(path) for path in (fold.cold_start, fold.grpo, fold.test)]
        actors = [{clip.group for clip in part} for part in parts]
        assert len(set.union(*actors)) == 10 == sum(map(len, actors))
        tested += [clip.id for clip in parts[2]]
        assert {clip.labels for clip in parts[2]} == {("happy",), ("angry",)}
    assert len(tested) == 20 == len(set(tested))
    assert prepare("speech", tmp_path / "speech", None, untold) == folds  # made once


def test_texts_are_split_and_thinking_is_a_description_s_end(tmp_path: Path) -> None:
    rows = {
        "affectgpt_words": [{"id": f"w{i}", "subtitle": "Oh", "words": ["glad"]} for i in range(3)],
        "emer_232": [
            {"id": "e", "subtitle": "No.", "labels": ["sad"], "description": "He sits. He is sad."}
        ],
        "goemotions_train": [
            {"id": "t", "subtitle": "Hm.", "labels": ["joy"]},
            {"id": "n", "subtitle": "Hm.", "labels": ["neutral"]},
        ],
        "goemotions_dev": [{"id": "d", "subtitle": "Ah.", "labels": ["anger", "neutral"]}],
    }
    (tmp_path / "text").mkdir()
    for name, found in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in found)
        (tmp_path / f"text/{name}.jsonl").write_text(text, encoding="utf-8")
    (fold,) = prepare("text", tmp_path / "out/text", tmp_path, untold)
    cold, grpo, test = map(read_manifest, (fold.cold_start, fold.grpo, fold.test))
    assert [clip.id for clip in cold] == ["w0", "w1", "w2", "e"]
    assert cold[-1].description == "He is sad."
    assert [clip.id for clip in grpo] == ["t"]
    assert [clip.id for clip in test] == ["d"]
    # Nobody is seen or heard, and the same training runs.
    said = reproduce(
        str(written(tmp_path, quick(TINY | {"ground": "text", "seeds": [1]}))),
        out=tmp_path / "out",
        docs=tmp_path,
        settings=["GRPO"],
        workers=1,
    )
    assert said["missing"] == 2


@pytest.mark.parametrize(("name", "told"), [("text", "affectgpt_words"), ("speech", "ravdess")])
def test_real_labels_that_are_not_here_are_asked_for(name: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--shared"):
        prepare(name, tmp_path / "a", None, untold)
    with pytest.raises(MissingFileError, match=told):
        prepare(name, tmp_path / "b", tmp_path, untold)


def test_a_smaller_share_is_part_of_a_larger_and_groups_stay_whole(tmp_path: Path) -> None:
    clips = [Clip(id=str(i), labels=("sad",), group=str(i // 3)) for i in range(60)]
    write_manifest(tmp_path / "all.jsonl", clips)
    parts = [read_manifest(share_of(tmp_path / "all.jsonl", share)) for share in (0.1, 0.5, 1.0)]
    assert [len(part) for part in parts] == [6, 30, 60]
    for smaller, larger in pairwise(parts):
        assert {clip.id for clip in smaller} < {clip.id for clip in larger}


# What is committed ------------------------------------------------------------------------------

REPORTED = [name for name in table_names() if (DOCS / f"{name}.md").is_file()]


def told_again(folder: Path, name: str, tests: Sequence[Sequence[Clip]]) -> None:
    """A page, made anew of the committed results, is the committed one."""
    table = load_table(name)
    ids = [[clip.id for clip in clips] for clips in tests]
    kept = DOCS / "cells" / table.ground
    found = {row: found_of(cells(table, row, len(ids)), kept, ids) for row in table.settings}
    ground = Ground.of([clip for clips in tests for clip in clips], Lexicon.load())
    write_page(folder, name, table, ground, found)
    for kind in ("md", "json", "svg"):
        made, written = (place / f"{name}.{kind}" for place in (folder, DOCS))
        assert made.read_text(encoding="utf-8") == written.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", [name for name in REPORTED if load_table(name).ground == "demo" and name != "beyond"]
)
def test_a_committed_page_says_what_the_committed_results_say(name: str, tmp_path: Path) -> None:
    told_again(tmp_path, name, [drawn_test_clips()])


@pytest.mark.parametrize("name", [name for name in REPORTED if load_table(name).ground != "demo"])
def test_a_committed_page_on_real_labels_says_what_the_committed_results_say(
    name: str, shared_dir: Path, tmp_path: Path
) -> None:
    def bar(_: str) -> Callable[[int, int], None]:
        return lambda *_: None

    folds = prepare(load_table(name).ground, tmp_path / "ground", shared_dir / "data", bar)
    told_again(tmp_path, name, [read_manifest(fold.test) for fold in folds])
