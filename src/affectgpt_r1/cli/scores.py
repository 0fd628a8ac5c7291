"""Commands that need no model: lexicons, answers to scores, completions to rewards."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from cyclopts import App

from affectgpt_r1.cli import options as opt
from affectgpt_r1.clips import read_manifest
from affectgpt_r1.console import audit_table, bars, people
from affectgpt_r1.emotion import tables
from affectgpt_r1.emotion.labels import Parser, parse_labels
from affectgpt_r1.emotion.lexicon import Lexicon, authors_folder
from affectgpt_r1.errors import InputError, LexiconError, ProblemsError
from affectgpt_r1.evaluation import scoring
from affectgpt_r1.evaluation.answers import Kept, read_answers
from affectgpt_r1.evaluation.prose import read_predictions
from affectgpt_r1.evaluation.render import render, table_of

lexicon = App(name="lexicon", help="Which word counts as what, and why.")


def score(
    predictions: Path,
    /,
    *,
    labels: Path | None = None,
    metric: scoring.Metric | None = None,
    preset: scoring.PresetName | None = None,
    lexicon: opt.LexiconName | None = None,
    lexicon_folder: opt.LexiconFolder = None,
    level: opt.Level | None = None,
    parser: Parser | None = None,
    extractor: scoring.Extractor = "none",
    sentiments: scoring.Sentiments = "given",
    server: str | None = None,
    server_model: str | None = None,
    compare: list[Path] | None = None,
    group: opt.Text = "group",
    per_sample: Path | None = None,
    form: opt.Form = "json",
) -> str:
    """Score answers against labels; no model is needed.

    Args:
        predictions: JSON Lines of answers; - reads stdin.
        labels: Manifest with labels, unless inline.
        metric: What is scored [default: ew].
        preset: A published combination of lexicon, ring and parser.
        lexicon: Which lexicon scores [default: builtin].
        level: Ring of the wheels [default: 1].
        parser: reference: as published, remnants and all [default: robust].
        extractor: Where answers are prose: lexical rules, or a language model's server.
        sentiments: Whose: the file's (polarity where it has none), polarity, a server's.
        server: For openai: address of the server, up to /v1.
        server_model: For openai: the model's name there.
        compare: Another system's answers to the same samples; repeatable.
        group: Column of what is independent, such as the speaker.
        per_sample: File for what each sample contributes.
    """
    rule = scoring.rule_of(preset, metric, lexicon, level, parser)
    rule = replace(rule, extractor=extractor, sentiments=sentiments)
    rule = replace(rule, server=server, model=server_model)
    table = Lexicon.load(rule.lexicon, folder=lexicon_folder)
    clips = read_manifest(labels, rule.parser) if labels else ()

    def read(path: Path) -> Kept:
        rows = read_answers(path, clips, group=group)
        with bars() as bar:
            rows = read_predictions(rows, rule, table, bar("asking"))
        return scoring.keep(rows, rule, str(path))

    kept = read(predictions)
    others = {str(path): read(path) for path in compare or ()}
    row = scoring.score_row(kept, rule, table, others)
    if per_sample:
        scoring.write_samples(per_sample, kept, rule, table)
    return render(row, form)


def report(
    source: Path,
    /,
    *,
    labels: Path | None = None,
    baseline: Path | None = None,
    out: Path = Path("report.html"),
    lexicon: opt.LexiconName = "builtin",
    lexicon_folder: opt.LexiconFolder = None,
    level: opt.Level = 1,
) -> dict[str, Path]:
    """Make a page to look at: of anybody's predictions, or of a run; no model is needed.

    Args:
        source: JSON Lines of answers, or a run folder, whose training is shown.
        labels: Manifest with labels and media, unless labels are inline.
        baseline: Another system's answers to the same samples, to compare with.
        out: The page.
        lexicon: Which lexicon scores.
        level: Ring of the wheels.
    """
    from affectgpt_r1.evaluation.report import write_report

    table = Lexicon.load(lexicon, folder=lexicon_folder)
    run = source if source.is_dir() else None
    if run and (labels or baseline):
        raise InputError("--labels and --baseline are for predictions, and a run folder has none")
    clips = read_manifest(labels) if labels else ()
    rule = scoring.Rule(lexicon=lexicon, levels=(level,))
    kept = Kept((), ()) if run else scoring.read_kept(source, rule, clips)
    before = {str(baseline): scoring.read_kept(baseline, rule, clips)} if baseline else {}
    result = None if run else scoring.score_row(kept, rule, table, before)
    write_report(out, table, kept, result, clips, before, level=level, run=run)
    return {"report": out}


def unibench(
    *predictions: opt.Paths,
    checkpoint: str | None = None,
    lexicon: opt.LexiconName = "mer2025",
    lexicon_folder: opt.LexiconFolder = None,
    parser: Parser = "reference",
    form: opt.Form = "json",
) -> object:
    """The nine sets of MER-UniBench in one table: fixed checkpoint and best checkpoint apart.

    Args:
        predictions: JSON Lines with `dataset`; a file a checkpoint, or all.
        checkpoint: The fixed checkpoint [default: the last by name].
        lexicon: Which lexicon scores.
        parser: reference: as published.
    """
    from affectgpt_r1.evaluation.unibench import bench, bench_lines, read_bench

    table = Lexicon.load(lexicon, folder=lexicon_folder)
    rule = scoring.Rule(lexicon=lexicon, parser=parser)
    result = bench(read_bench(predictions), table, rule, checkpoint)
    if form == "json":
        return result
    headers = ["", "metric", "rows", f"fixed: {result.fixed_checkpoint}", "best of each set"]
    return table_of(bench_lines(result), headers, form)


def reward(recipe: str, file: Path, /, *, overrides: opt.Overrides = None) -> Iterator[object]:
    """Reward completions: every term, penalty and problem, one JSON object a line.

    Args:
        recipe: A YAML file or a recipe's name (`reward`).
        file: JSON Lines: completion, labels; - reads stdin.
    """
    from affectgpt_r1.config import RewardRecipe, load_recipe
    from affectgpt_r1.evaluation.rewarding import reward_rows

    return reward_rows(file, load_recipe(recipe, RewardRecipe, overrides or ()))


def audit(recipe: str, manifest: Path, /, *, overrides: opt.Overrides = None) -> Iterator[object]:
    """What cheap answers get from a reward, beside an honest one: before GPUs are spent on it.

    Args:
        recipe: A YAML file or a recipe's name (`reward`).
        manifest: Labelled clips; no media are read.
    """
    from affectgpt_r1.config import RewardRecipe, load_recipe
    from affectgpt_r1.evaluation.rewarding import audit

    checked = load_recipe(recipe, RewardRecipe, overrides or ())
    with people.status("searching"):
        rows = audit(read_manifest(manifest), checked)
    audit_table(rows)
    return iter(rows)


@lexicon.command(name="list")
def list_lexicons(*, lexicon_folder: opt.LexiconFolder = None) -> Iterator[dict[str, Any]]:
    """The lexicons: which can be loaded, how many words each knows, and their hashes."""
    for name in get_args(opt.LexiconName):
        try:
            table = Lexicon.load(name, folder=None if name == "builtin" else lexicon_folder)
        except LexiconError as error:
            yield {"name": name, "loads": False, "why": str(error)}
        else:
            known = {"forms": len(table.tables.bases), "bases": len(table.tables.nearest)}
            yield {"name": name, "loads": True, **known, "hash": table.hash}


@lexicon.command
def explain(
    *words: opt.Words,
    lexicon: opt.LexiconName = "builtin",
    lexicon_folder: opt.LexiconFolder = None,
) -> Iterator[dict[str, Any]]:
    """How a word comes by its classes on each wheel, and what lost.

    Args:
        words: Words, or quoted phrases.
        lexicon: Which lexicon scores.
    """
    table = Lexicon.load(lexicon, folder=lexicon_folder)
    asked = parse_labels(words)
    if not asked:
        raise InputError("no word to explain is in what was given: name an emotion word")
    for word in asked:
        source = {"lexicon": f"{table.name}#{table.hash}"}
        yield {**source, **table.explain(word), "polarity": table.polarity(word)}


@lexicon.command
def download(*, folder: Path | None = None, accept_terms: bool = False) -> dict[str, Any]:
    """Fetch the authors' tables, checked against their published checksums.

    Args:
        folder: Of the tables [default: in the user's cache].
        accept_terms: You have read the terms and accept them.
    """
    people.print(tables.TERMS, highlight=False)
    if not accept_terms:
        raise InputError("nothing was fetched: say --accept-terms if you accept these terms")
    place = folder or authors_folder()
    with bars() as bar:
        tables.download(place, progress=bar("fetching"))
    return {"folder": place, "files": len(tables.FILES)}


@lexicon.command
def verify(*, folder: Path | None = None) -> dict[str, Any]:
    """Check a folder of the authors' tables; names every file that is not as published.

    Args:
        folder: Of the tables [default: in the user's cache].
    """
    place = folder or authors_folder()
    if wrong := tables.verify(place):
        raise ProblemsError(str(place), [f"{name} {what}" for name, what in wrong.items()])
    return {"folder": place, "verified": True}


#: What the command line takes from here.
COMMANDS = (score, report, unibench, reward, audit, lexicon)
