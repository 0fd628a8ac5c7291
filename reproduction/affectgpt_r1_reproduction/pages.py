"""Pages: a table's results as Markdown, and all verdicts on one page.

Every figure comes from the results; where some are missing the page says how many.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any

from affectgpt_r1.emotion.score import signature
from affectgpt_r1.emotion.significance import Interval
from affectgpt_r1.evaluation.render import table_of
from affectgpt_r1.files import write_whole
from affectgpt_r1_reproduction.pictures import picture
from affectgpt_r1_reproduction.plan import CONSTANT, Figure, Table
from affectgpt_r1_reproduction.results import Found
from affectgpt_r1_reproduction.verdicts import Ground, Judged

_BEGIN, _END = "<!-- verdicts -->", "<!-- end of verdicts -->"


def write_page(
    folder: Path, name: str, table: Table, ground: Ground, found: Mapping[str, Found]
) -> list[Judged]:
    """Write NAME.md, NAME.svg, NAME.json, and the verdicts of all tables into index.md.

    Args:
        folder: of the documents.
        name: the table's.
        table: what was to be decided.
        ground: the test clips.
        found: of every setting.
    """
    judged = ground.judge(table.claims, {row: one.said for row, one in found.items()})
    if drawn := picture(table, ground, found):
        write_whole(folder / f"{name}.svg", drawn)
    write_whole(folder / f"{name}.md", "\n".join(_page(name, table, ground, found, judged)))
    summary = {"title": table.title, "ground": table.ground, "claims": [*map(_claim, judged)]}
    write_whole(folder / f"{name}.json", json.dumps(summary, indent=1) + "\n")
    index = folder / "index.md"
    text = index.read_text(encoding="utf-8") if index.is_file() else f"{_BEGIN}\n{_END}\n"
    before, _, rest = text.partition(_BEGIN)
    lines = "\n".join(_all_verdicts(folder))
    write_whole(index, f"{before}{_BEGIN}\n\n{lines}\n\n{_END}{rest.partition(_END)[2]}")
    return judged


def _page(
    name: str,
    table: Table,
    ground: Ground,
    found: Mapping[str, Found],
    judged: Sequence[Judged],
) -> Iterator[str]:
    yield from (f"# {table.title}", "", table.about, "")
    shared = "" if table.ground == "demo" else " --shared SHARED"
    yield from ("```sh", f"affectgpt-r1 reproduce {name}{shared}", "```", "")
    clips, groups = len(ground.labels), len(set(ground.groups))
    hours = sum(r["train_s"] for one in found.values() for r in one.results) / 3600
    missing, failed = (
        sum(getattr(one, kind) for one in found.values()) for kind in ("missing", "failed")
    )
    yield (
        f"Ground: {table.ground}, {clips} test clips in {groups} groups; seeds "
        f"{', '.join(map(str, table.seeds))}; {hours:.1f} hours of training on one core, the cold "
        "starts counted with each setting."
    )
    if missing:
        yield f"**{missing} cells have not been run yet.**"
    if failed:
        yield f"**{failed} cells could not be trained to their end, and are left out.**"
    yield f"Scored as `{signature(ground.lexicon)}`."
    if any(one.said for one in found.values()):
        yield from ("", f"![F of each setting, and how long answers grew]({name}.svg)")
    yield from ("", table_of([*_rows(table, ground, found)], _HEADERS, "markdown"), "")
    yield (
        "F: mean of the seeds with its 95 % interval, over groups of clips and seeds at once; "
        f"difference: paired, to *{table.baseline}*; p: by Holm over the claims of this table."
    )
    yield from ("", "## Verdicts", "", *_verdicts(judged))
    yield ""


_HEADERS = (
    "setting",
    "paper, x 100",
    "F",
    "95 %",
    "difference",
    "95 %",
    "words",
    "coverage",
    "different answers",
    "well formed",
    "seeds",
)


def _rows(table: Table, ground: Ground, found: Mapping[str, Found]) -> Iterator[list[str]]:
    said = {name: one.said for name, one in found.items()}
    constant = ground.constant()
    always = {0: [constant] * len(ground.labels)}
    value = ground.interval("f", always)
    yield [f"{CONSTANT} ({', '.join(constant)})", "", f"{value.value:.3f}", _bounds(value, ".3f")]
    for name, setting in table.settings.items():
        paper = "" if setting.paper is None else f"{setting.paper:.2f}"
        one = found[name]
        if not one.said:
            yield [name, paper, "not run"]
            continue
        f = ground.interval("f", one.said)
        apart = name != table.baseline
        difference = ground.difference(name, table.baseline, said) if apart else None
        figures: tuple[Figure, ...] = ("words", "coverage")
        yield [
            name,
            paper,
            f"{f.value:.3f}",
            _bounds(f, ".3f"),
            f"{difference.value:+.3f}" if difference else "",
            _bounds(difference) if difference else "",
            *(f"{ground.interval(figure, one.said).value:.3f}" for figure in figures),
            f"{fmean(len(set(map(frozenset, words))) for words in one.said.values()):.0f}",
            f"{one.mean('well_formed'):.3f}",
            str(len(one.said)),
        ]


def _verdicts(judged: Sequence[Judged]) -> Iterator[str]:
    if not judged:
        yield "None yet: the runs are missing."
        return
    rows = [
        [
            one.claim.says,
            f"{one.interval.value:+.3f}",
            _bounds(one.interval),
            f"{one.p:.3f}",
            ", ".join(f"{value:+.3f}" for value in one.by_seed),
            f"**{one.verdict}**",
        ]
        for one in judged
    ]
    yield table_of(rows, ["claim", "measured", "95 %", "p", "by seed", "verdict"], "markdown")


def _all_verdicts(folder: Path) -> Iterator[str]:
    """The verdicts of every table that has a summary."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        summary = json.loads(path.read_text(encoding="utf-8"))
        link = f"[{summary['title']}]({path.stem}.md)"
        for claim in summary["claims"]:
            bounds = f"{claim['value']:+.3f} ({claim['low']:+.3f} to {claim['high']:+.3f})"
            rows.append([link, summary["ground"], claim["says"], bounds, claim["verdict"]])
    yield table_of(rows, ["table", "ground", "claim", "measured", "verdict"], "markdown")


def _claim(one: Judged) -> dict[str, Any]:
    interval = one.interval
    return {
        "says": one.claim.says,
        "figure": one.claim.figure,
        "value": round(interval.value, 6),
        "low": round(interval.low, 6),
        "high": round(interval.high, 6),
        "p": round(one.p, 6),
        "by_seed": [round(value, 4) for value in one.by_seed],
        "verdict": one.verdict,
    }


def _bounds(interval: Interval, form: str = "+.3f") -> str:
    return "" if isnan(interval.low) else f"{interval.low:{form}} to {interval.high:{form}}"
