"""`runs/paper.sh` from the authors' folders to the table of nine sets, at nano size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from affectgpt_r1.clips import read_manifest
from affectgpt_r1.config import ColdStartRecipe, GrpoRecipe, load_recipe, recipe_yaml
from affectgpt_r1.dialogue import QUESTIONS
from affectgpt_r1.emotion import hit_rate, score_corpus, sentiment_of, sentiment_scores
from affectgpt_r1.files import own_rows
from forkshell import Shell, shell
from test_prepare import LAYOUTS, lay_out, media, write_csv  # noqa: F401

SCRIPT = Path(__file__).parents[1] / "runs/paper.sh"
#: By hand, from the benchmark: each set's title, metric and number of samples.
TABLE = {
    "mer2023": ("MER2023", "HIT", 411),
    "mer2024": ("MER2024", "HIT", 1169),
    "meld": ("MELD", "HIT", 2610),
    "iemocap": ("IEMOCAP (4)", "HIT", 1241),
    "cmumosi": ("CMU-MOSI", "WAF", 686),
    "cmumosei": ("CMU-MOSEI", "WAF", 4659),
    "chsims": ("CH-SIMS", "WAF", 457),
    "chsimsv2": ("CH-SIMS v2", "WAF", 1034),
    "ovmerdplus": ("OV-MERD+", "F", 532),
}
SIZE = {
    **{"PROFILE": "nano", "COLD_START": "nano-cold-start.yaml", "GRPO": "nano-grpo.yaml"},
    **{"DEVICE": "cpu", "DECODE": "greedy", "WORKERS": "1", "LEXICON": "builtin", "OUT": "out"},
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="module")
def sh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with shell(tmp_path_factory.mktemp("bin")) as running:
        yield running


@pytest.fixture
def paper(tmp_path: Path, media: Path) -> Path:  # noqa: F811
    """A folder with the sets as their authors hand them out, and recipes of a few updates."""
    # One clip of the test set is in the RL set too.
    letters = {"ovmerdplus": "bde", "meld": "mno", "mercaptionplus": "fgh"}
    for name in LAYOUTS.keys() - {"ovmerd"}:
        lay_out(name, tmp_path / "datasets", media, letters.get(name, "abc"))
    both = tmp_path / "datasets/mer2025-dataset"
    write_csv(
        both / "subtitle_chieng.csv",
        ("name", "chinese", "english"),
        *((f"{letter}.x", "", f"Oh, {letter}.") for letter in "abcfgh"),
    )
    for place in (both / "video/h.x.mp4", tmp_path / "datasets/meld-process/subvideo/n.x.mp4"):
        place.write_bytes(b"no film")
    first, then = (
        ["optimizer.batch_size=2", f"optimizer.max_steps={n}", "data.max_unreadable=0.4"]
        for n in (120, 2)
    )
    for stage, recipe in (
        ("cold-start", load_recipe("nano-cold-start", ColdStartRecipe, first)),
        ("grpo", load_recipe("nano-grpo", GrpoRecipe, then)),
    ):
        (tmp_path / f"nano-{stage}.yaml").write_text(recipe_yaml(recipe), encoding="utf-8")
    return tmp_path


def by_hand(name: str, said: list[dict[str, object]]) -> float:
    """The score of a set's predictions by its metric, from the functions of the scores."""
    read = [row for row in said if row["words"] is not None]
    words = [row["words"] for row in read]
    labels: list[object] = [row["labels"] for row in read]
    if TABLE[name][1] == "WAF":
        assert all(isinstance(label, float) for label in labels)
        return sentiment_scores(labels, list(map(sentiment_of, words))).waf  # type: ignore[arg-type]
    if TABLE[name][1] == "HIT":
        return hit_rate(labels, words).hit  # type: ignore[arg-type]
    return score_corpus(labels, words).f  # type: ignore[arg-type]


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each file was written, and what it holds."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {n: (p.stat().st_mtime_ns, p.read_bytes()) for n, p in found.items() if p.is_file()}


def test_the_paper_runs_to_its_table_and_goes_on_where_it_was(paper: Path, sh: Shell) -> None:
    caches = {"XDG_CACHE_HOME": str(paper / "caches"), "DATA": str(paper / "datasets")}
    done = sh.run(f"sh {SCRIPT}", paper, SIZE | caches)
    assert done.returncode == 0, done.stderr
    out = paper / "out"
    # What is trained on: no clip of the test set, and none that cannot be read.
    given = {
        name: [clip.id for clip in read_manifest(out / f"manifests/{name}.jsonl")]
        for name in ("mercaptionplus", "mer2025ov")
    }
    assert given == {"mercaptionplus": ["f.x", "g.x", "h.x"], "mer2025ov": ["a.x", "c.x"]}
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"model"')]
    assert [one["dropped"] for one in said] == [{"could not be read": 1}, {}]
    for stage, steps in (("cold-start", 120), ("grpo", 2)):
        metrics = own_rows(out / stage / "metrics.jsonl")
        assert [row["step"] for row in metrics] == list(range(1, steps + 1))
        assert (out / stage / "model/config.json").is_file()
    assert len(own_rows(out / "grpo/rollouts.jsonl")) == 2 * 2  # a clip a line
    for model in ("cold-start", "grpo"):
        table = (out / f"unibench-{model}.markdown").read_text(encoding="utf-8")
        assert table in done.stdout
        rows = [[cell.strip() for cell in row.split("|")] for row in table.splitlines()[2:]]
        assert len(rows) == 10
        scores = []
        for name, row in zip(TABLE, rows, strict=False):
            title, metric, samples = TABLE[name]
            said = own_rows(out / f"predictions/{model}/{name}.jsonl")
            # The open-words question, for all of them.
            asked = {row["signature"] for row in said}
            assert asked == {"mode:answer|decode:greedy|without:nothing"}
            scores.append(by_hand(name, said))
            answered = 2 if name == "meld" else 3
            best = f"{100 * scores[-1]:.2f}"
            told = [title, metric, f"{answered} of {samples}", best, f"{best} (given)"]
            assert row[1:-1] == told
        assert len(set(scores)) > 1
        assert rows[-1][1].startswith("mean of nine")
        assert rows[-1][4] == f"{100 * sum(scores) / 9:.2f}"
    assert "all possible emotional states" in QUESTIONS["answer"]
    assert "predictions/cold-start/ovmerdplus.jsonl" in (out / "before-after.markdown").read_text()
    assert (out / "report.html").is_file()

    # Cut in its last set, it goes on there: nothing else is made again.
    last = out / "predictions/grpo/ovmerdplus.jsonl"
    before = files(out)
    (out / "unfinished/grpo/ovmerdplus.jsonl").write_bytes(last.read_bytes()[:-20])
    last.unlink()
    done = sh.run(f"sh {SCRIPT}", paper, SIZE | caches)
    assert done.returncode == 0, done.stderr
    after = files(out)
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name] != before[name]}
    tables = {name for name in after if name.startswith(("unibench", "before-after", "report"))}
    assert changed <= {"predictions/grpo/ovmerdplus.jsonl"} | tables
    assert {name for name in changed if after[name][1] != before[name][1]} <= {"report.html"}
