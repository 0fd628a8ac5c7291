"""The command `affectgpt-r1 reproduce`: a table's runs, and its page."""

from pathlib import Path
from typing import Any

from affectgpt_r1 import console
from affectgpt_r1.errors import InputError


def reproduce(
    table: str,
    /,
    *,
    shared: Path | None = None,
    out: Path = Path("runs/reproduce"),
    docs: Path = Path("docs/reproduction"),
    seeds: list[int] | None = None,
    settings: list[str] | None = None,
    workers: int = 2,
    page_only: bool = False,
) -> dict[str, Any]:
    """Run a table of the paper at a small size (settings x seeds), and judge its claims.

    What has a result is not run again: a table can be begun on one machine and finished on
    another, with the results that are committed.

    Args:
        table: A table's name, or a YAML file.
        shared: Folder of the real texts and speech, for tables on them.
        out: Folder for data and runs.
        docs: Folder for the page; its `cells` holds the results.
        seeds: Only these; repeatable.
        settings: Only these; repeatable.
        workers: Processes, each with one thread.
        page_only: Run nothing: write the page of what is there.
    """
    from affectgpt_r1.clips import read_labelled
    from affectgpt_r1.emotion.lexicon import Lexicon
    from affectgpt_r1_reproduction.grounds import FOLDS, encode, prepare
    from affectgpt_r1_reproduction.pages import write_page
    from affectgpt_r1_reproduction.plan import cells, load_table
    from affectgpt_r1_reproduction.results import found_of
    from affectgpt_r1_reproduction.running import run_cells
    from affectgpt_r1_reproduction.verdicts import Ground

    plan = load_table(table)
    if unknown := [name for name in settings or () if name not in plan.settings]:
        raise InputError(f"no setting {unknown[0]!r}: the table has {', '.join(plan.settings)}")
    if set(seeds or ()) - set(plan.seeds):
        raise InputError(f"the table has the seeds {', '.join(map(str, plan.seeds))}, no others")
    chosen = {name: [*cells(plan, name, FOLDS[plan.ground])] for name in plan.settings}
    results = docs / "cells" / plan.ground
    with console.bars() as bar:
        folds = prepare(plan.ground, out / plan.ground, shared, bar)
        wanted = [
            cell
            for name, some in chosen.items()
            for cell in some
            if name in (settings or chosen) and cell.seed in (seeds or plan.seeds)
        ]
        if not page_only:
            encode(folds, bar)
            run_cells(wanted, folds, out / "runs", results, workers, bar("running cells"))
    tests = [read_labelled(fold.test) for fold in folds]
    ids = [[clip.id for clip in clips] for clips in tests]
    found = {name: found_of(some, results, ids) for name, some in chosen.items()}
    ground = Ground.of([clip for clips in tests for clip in clips], Lexicon.load())
    judged = write_page(docs, Path(table).stem, plan, ground, found)
    return {
        "page": docs / f"{Path(table).stem}.md",
        "missing": sum(one.missing for one in found.values()),
        "verdicts": {one.claim.says: one.verdict for one in judged},
    }
