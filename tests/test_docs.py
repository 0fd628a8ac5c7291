"""What README and docs say: every command runs, every example loads, every link leads somewhere.

A page's shell blocks run one after the other in a folder with tiny data, in a real shell. What
cannot run here stands in LISTED with the reason, and is held to the program's options all the same.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from affectgpt_r1 import __version__
from affectgpt_r1.clips import read_manifest, write_manifest
from affectgpt_r1.config import (
    ColdStartRecipe,
    GrpoRecipe,
    JudgeSettings,
    load_recipe,
    recipe_names,
)
from affectgpt_r1.errors import InputError
from affectgpt_r1_demo.clips import demo_lines, write_demo
from forkshell import Shell, shell
from test_convert import authors_state, qwen, write  # noqa: F401
from test_prepare import lay_out, media, write_csv  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

#: What stands for what in the folder of tiny data, and for what takes minutes: seconds of the same.
FILLED = {
    "predict FILE...": "predict clips/a.mp4",
    "--model DIR": "--model model",
    "--subtitle TEXT": "--subtitle Oh.",
    "--out FILE": "--out answers.jsonl",
    "--out FILE.csv": "--out said.csv",
    "score FILE": "score predictions.jsonl",
    "report PREDICTIONS_OR_RUN": "report predictions.jsonl",
    "--labels MANIFEST": "--labels clips.jsonl",
    "--baseline PREDICTIONS": "--baseline theirs.jsonl",
    "--compare OTHER": "--compare theirs.jsonl",
    "reward RECIPE FILE": "reward reward rows.jsonl",
    "audit RECIPE MANIFEST": "audit reward clips.jsonl",
    "unibench FILES": "unibench unibench.jsonl --lexicon builtin",
    "explain WORD": "explain glad",
    "evaluate MODEL MANIFEST": "evaluate model clips.jsonl",
    "--out DIR": "--out evaluation",
    "prepare NAME DIR": "prepare meld DATASETS",
    "encode MANIFEST --profile P": "encode clips.jsonl --profile nano",
    "convert CHECKPOINT DIR": "convert checkpoint.pth converted --language-model qwen",
    "merge MODEL DIR": "merge lora-model merged",
    "--model MODEL": "--model model",
    "cold-start small-cold-start": "cold-start nano-cold-start --set optimizer.max_steps=2"
    " --set run.output=runs/small-cold-start",
    "grpo small-grpo": "grpo nano-grpo --set optimizer.max_steps=1"
    " --set run.output=runs/small-grpo --set model=runs/small-cold-start",
    "cold-start RECIPE": "cold-start nano-cold-start --set optimizer.max_steps=2",
    "grpo RECIPE": "grpo nano-grpo --set optimizer.max_steps=1",
    "RUN/failed/STEP": "failed-run/failed/step-000002",
    "RUN/failed/step-000012": "failed-run/failed/step-000002",
    "affectgpt-r1 cache gc": "affectgpt-r1 cache gc clips.jsonl --profile nano",
}

#: What cannot run here, by how a command begins, and why.
LISTED = {
    "pip install": "fetches gigabytes; make package does the core's",
    ". .venv/bin/activate": "the environment is the one that the tests run in",
    "affectgpt-r1 serve": "runs until it is ended; tests/test_serve.py runs it, and its page",
    "curl ": "needs a server that runs; tests/test_serve.py asks it the same",
    "DATA=DATASETS sh runs/paper.sh": "weeks of GPUs; tests/test_paper.py runs it at nano size",
    "torchrun ": "weights of gigabytes; tests/test_processes.py trains these recipes smaller",
    "make ": "installs gigabytes, or runs this very suite",
    "python benchmarks/": "minutes to hours, and figures that need an idle machine",
    "bash benchmarks/gpu.sh": "figures of a GPU; TINY=tiny tries it in ten minutes",
    "affectgpt-r1 prepare demo": "draws 510 clips: minutes; tests/test_demo.py draws some",
    "affectgpt-r1 evaluate runs/demo/grpo": "needs the demo's model, which make demo trains",
    "affectgpt-r1 reproduce": "an hour and more; tests/test_reproduction.py runs a tiny table",
    "affectgpt-r1 lexicon download": "fetches from the network; tests/test_download.py serves it",
    "swift ": "another trainer's command: make compat runs it",
    "python -m verl": "another trainer's command: make compat runs it",
    "python -m openrlhf": "another trainer's command: make compat runs it",
    "PYTHONPATH=examples vf-eval": "another trainer's command: make compat runs it",
    "inspect ": "another tool's command, and a model behind a network: make compat runs its task",
    "lmms-eval ": "another tool's command, and a model of gigabytes: make compat runs its task",
}
#: Lines of the demo, two of each part; h036 is the one that pages ask about.
LINES = {"h002", "h036", "h004", "h008", "h001", "h003"}
#: What needs the authors' tables, which are not ours to hand out.
TABLES = re.compile(r"mer2025|mer2026|ovmerd-plus|lexicon verify")


SECTIONS = {*ColdStartRecipe.model_fields, *GrpoRecipe.model_fields}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str


@cache
def blocks(page: Path) -> tuple[Block, ...]:
    found, begun, lines = [], 0, page.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if line.startswith("```"):
            if begun:
                language = lines[begun - 1].removeprefix("```")
                found.append(
                    Block(page, begun, language, "\n".join(lines[begun : number - 1]) + "\n")
                )
            begun = 0 if begun else number
    assert not begun, f"{page}: the block of line {begun} has no end"
    return tuple(found)


def of(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language == language]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def codes(page: Path) -> list[str]:
    """The inline code of a page, in order."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


def commands(text: str) -> list[str]:
    """The commands of a shell block, without comments, each on one line."""
    joined = re.sub(r"\\\n\s*", "", text)
    lines = (re.sub(r"(^|\s+)#.*", "", line) for line in joined.split("\n"))
    return [line for line in lines if line.strip()]


def filled(command: str) -> str:
    for placeholder, value in FILLED.items():
        command = re.sub(rf"{re.escape(placeholder)}(?![\w/.-])", value, command)
    return command


def listed(command: str, tables: bool) -> bool:
    return command.startswith(tuple(LISTED)) or (bool(TABLES.search(command)) and not tables)


def variants(cell: str) -> Iterator[str]:
    """The commands of a row of README's table: each optional part once, each further subcommand."""
    first = ""
    for code in re.findall(r"`([^`]+)`", cell):
        if code.startswith("affectgpt-r1 "):
            whole = first = code
        else:
            whole = " ".join([*first.split()[:2], code])
        plain = re.sub(r" \[[^]]*\]", "", whole)
        yield from [f"{plain} {part}" for part in re.findall(r"\[([^]]*)\]", whole)] or [plain]


TABLE = [
    command
    for line in (ROOT / "README.md").read_text(encoding="utf-8").split("\n")
    if line.startswith("| `affectgpt-r1")
    for command in variants(line.split("|")[1])
]


def recipe(name: str, stage: str, sets: Sequence[str] = ()) -> ColdStartRecipe | GrpoRecipe:
    if stage == "grpo":
        return load_recipe(name, GrpoRecipe, sets)
    return load_recipe(name, ColdStartRecipe, sets)


@pytest.fixture(scope="module")
def sh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with shell(tmp_path_factory.mktemp("bin")) as running:
        yield running


@pytest.fixture(scope="module")
def tables() -> Path | None:
    """The authors' tables, where they are at hand."""
    named = os.environ.get("AFFECTGPT_R1_SHARED")
    folder = (Path(named) if named else ROOT.parent / "shared") / "reference/emotion_wheel"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, tables: Path | None) -> dict[str, str]:
    """A user's caches of our own, and help in lines that are not broken."""
    folder = {"AFFECTGPT_R1_LEXICON": str(tables)} if tables else {}
    caches = str(tmp_path_factory.mktemp("caches"))
    return {"XDG_CACHE_HOME": caches, "COLUMNS": "200", "OMP_NUM_THREADS": "1", **folder}


@pytest.fixture(scope="module")
def template(
    tmp_path_factory: pytest.TempPathFactory,
    sh: Shell,
    environment: dict[str, str],
    media: Path,  # noqa: F811
    qwen: Path,  # noqa: F811
    tables: Path | None,
) -> Path:
    """Tiny data under the names that the pages use: clips, answers, sets, models, runs."""
    folder = tmp_path_factory.mktemp("template")
    few = [line for line in demo_lines() if line.id in LINES]
    assert len(few) == len(LINES)
    write_demo(folder / "data/demo", lines=few, workers=1)
    clips = read_manifest(folder / "data/demo/test.jsonl")
    write_manifest(folder / "clips.jsonl", clips)
    shutil.copy(folder / "clips.jsonl", folder / "manifest.jsonl")
    (folder / "clips").mkdir()
    for name in ("clips/a.mp4", "own.mp4"):
        assert clips[0].video is not None
        shutil.copy(clips[0].video, folder / name)
    said = [
        {"id": clip.id, "labels": ["happy"], "words": ["glad"], "speaker": clip.group or "s"}
        for clip in clips
    ]
    for name in ("predictions", "ours", "theirs", "others"):
        write_rows(folder / f"{name}.jsonl", said)
    write_rows(
        folder / "rows.jsonl", [{"completion": "<answer>happy</answer>", "labels": ["glad"]}]
    )
    write_rows(
        folder / "unibench.jsonl",
        [{"id": "a", "label": "joy", "words": ["glad"], "dataset": "meld"}],
    )
    (folder / "manifests").mkdir()
    for name in ("meld", "mer2023", "mer2025ov", "ovmerdplus"):
        lay_out(name, folder / "DATASETS", media)
    # One clip of the test set is in the RL set too.
    labels = folder / "DATASETS/ovmerdplus-process/ovlabel.csv"
    write_csv(labels, ("name", "openset"), ("b.x", "sad"))
    write(folder / "checkpoint.pth", authors_state())
    (folder / "qwen").symlink_to(qwen)
    if tables:
        (folder / "emotion_wheel").symlink_to(tables)
    train = "affectgpt-r1 train cold-start nano-cold-start --set optimizer.max_steps=2 --set"
    made = sh.run(f"{train} run.output=model", folder, environment)
    assert made.returncode == 0, made.stderr
    lora = f"{train} lora.rank=2 --set optimizer.max_steps=1 --set run.output=lora-model"
    assert sh.run(lora, folder, environment).returncode == 0
    # One update of such a size, and the next loss is no number.
    wild = f"{train} optimizer.learning_rate=1e30 --set run.output=failed-run"
    assert sh.run(wild, folder, environment).returncode == 1
    return folder


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def work(template: Path, tmp_path: Path) -> Path:
    """A folder of one's own with the tiny data."""
    shutil.copytree(template, tmp_path / "work", symlinks=True)
    return tmp_path / "work"


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    kinds = {"sh", "python", "json", "yaml", "text"}
    found = [block for page in PAGES for block in blocks(page)]
    assert found
    assert [block for block in found if block.language not in kinds] == []
    # Text is what is printed or drawn. A command in it would be a command that nobody runs.
    for block in of("text"):
        assert not re.search(r"^\W*(affectgpt-r1|make|python|pip) ", block.text, re.M), block


@pytest.mark.parametrize(
    "name", [name for name in NAMES if any(b.language == "sh" for b in blocks(ROOT / name))]
)
def test_the_commands_of_a_page_run_in_their_order(
    name: str, work: Path, sh: Shell, environment: dict[str, str], tables: Path | None
) -> None:
    for block in blocks(ROOT / name):
        if block.language == "sh":
            wanted = [line for line in commands(block.text) if not listed(line, bool(tables))]
            done = sh.run("\n".join(map(filled, wanted)), work, environment)
            assert done.returncode == 0, f"{name}:{block.line}\n{done.stdout}\n{done.stderr}"


def test_the_commands_of_readmes_table_run_in_their_order(
    work: Path, sh: Shell, environment: dict[str, str], tables: Path | None
) -> None:
    assert len(TABLE) > 20
    for command in TABLE:
        if not listed(command, bool(tables)):
            done = sh.run(filled(command), work, environment)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def every_command() -> list[str]:
    """All commands of all pages: blocks, README's table, and what stands in a sentence."""
    said = [code for page in PAGES for code in codes(page)]
    inline = [code for code in said if re.match(r"(affectgpt-r1|make|python [\w/]+\.py) ?", code)]
    return [line for block in of("sh") for line in commands(block.text)] + TABLE + inline


def test_the_lists_of_this_file_hold_nothing_that_no_page_says() -> None:
    said = every_command()
    for begin in LISTED:
        assert any(command.startswith(begin) for command in said), begin
    for placeholder, value in FILLED.items():
        assert any(filled(c) != c and value in filled(c) for c in said), placeholder


def test_every_command_names_programs_and_options_that_there_are(
    sh: Shell, environment: dict[str, str], tmp_path: Path
) -> None:
    @cache
    def answer(command: str) -> str:
        """What a program says of itself; empty where it refuses to."""
        done = sh.run(command, ROOT, environment)
        return done.stdout if done.returncode == 0 else ""

    wrong = []
    for command in every_command():
        words = re.sub(r"[][|<>]", " ", command).split()
        options = {word.split("=")[0] for word in words if word.startswith("--")}
        if words[0] == "make":
            target = " ".join(word for word in words[1:] if "=" not in word)
            if not answer(f"make -n {target}"):
                wrong.append(command)
            continue
        if words[0] == "affectgpt-r1":
            depth = 3 if words[1:2] and words[1] in ("train", "lexicon", "cache") else 2
            asked = " ".join(word for word in words[:depth] if word.islower())
        elif words[0] == "python" and words[1].endswith(".py"):
            if not options:
                assert (ROOT / words[1]).is_file(), command
                continue
            asked = f"python {words[1]}"
        else:
            continue
        usage = answer(f"{asked} --help")
        if not usage or [o for o in options if not re.search(rf"{o}(?![\w-])", usage)]:
            wrong.append(command)
    assert wrong == []


def test_every_recipe_and_setting_that_is_named_is_one() -> None:
    count = 0
    for command in every_command():
        if found := re.search(r"train (cold-start|grpo) ([\w-]+)", command):
            count += 1
            stage, name = found.groups()
            sets = re.findall(r"--set (\S+)", command)
            name = f"nano-{stage}" if name == "RECIPE" else name
            assert recipe(name, stage, sets), command
    assert count >= 8
    wrong = []
    wholes = [recipe(f"nano-{stage}", stage).model_dump() for stage in ("cold-start", "grpo")]
    for page in PAGES:
        for code in codes(page):
            section, _, key = re.sub(r"=.*", "", code).partition(".")
            if re.fullmatch(r"[a-z_]+\.[a-z_]+(=.*)?", code) and section in SECTIONS:
                count += 1
                known = [whole[section] for whole in wholes if whole.get(section)]
                known += [JudgeSettings.model_fields] if section == "judge" else []
                if not any(key in keys for keys in known) and not named(section, key):
                    wrong.append(f"{page.name}: {code}")
    assert wrong == []
    assert count > 25


def named(*parts: str) -> bool:
    """Whether the package has such a module, or a module with such a name in it."""
    whole, within = ".".join(["affectgpt_r1", *parts]), ".".join(["affectgpt_r1", *parts[:-1]])
    if find_spec(within) is None:
        return False
    return find_spec(whole) is not None or hasattr(import_module(within), parts[-1])


def test_what_other_tools_are_told_of_this_project_is_there() -> None:
    seen = 0
    for command in every_command():
        words = shlex.split(command)
        for place, word in enumerate(words):
            if found := re.search(r"(examples/\w+(?:\.py)?)(?:@(\w+))?$", word):
                seen += 1
                path, task = ROOT / found[1], found[2]
                assert path.exists(), command
                if task:
                    made = {
                        node.name: {argument.arg for argument in node.args.args}
                        for node in ast.parse(path.read_text(encoding="utf-8")).body
                        if isinstance(node, ast.FunctionDef)
                    }
                    given = {b.split("=")[0] for a, b in pairwise(words) if a == "-T"}
                    assert given <= made[task], command
            if word == "--reward_funcs" and "ms_swift_plugin" in command:
                plugin = (ROOT / "examples/ms_swift_plugin.py").read_text(encoding="utf-8")
                names = [w for w in words[place + 1 :] if w.startswith("emotion_")]
                assert names
                assert all(f'"{name}"' in plugin for name in names)
    assert seen >= 7


@pytest.mark.parametrize("block", of("python"), ids=lambda b: f"{b.page.name}:{b.line}")
def test_python_examples_run(
    block: Block, work: Path, sh: Shell, environment: dict[str, str]
) -> None:
    (work / "example.py").write_text(block.text, encoding="utf-8")
    done = sh.run("python example.py", work, environment)
    assert done.returncode == 0, f"{block.page.name}:{block.line}\n{done.stderr}"


@pytest.mark.parametrize("block", of("yaml"), ids=lambda b: f"{b.page.name}:{b.line}")
def test_yaml_examples_are_recipes_or_parts_of_one(block: Block, tmp_path: Path) -> None:
    part = yaml.safe_load(block.text)
    faults = []
    for stage in ("cold-start", "grpo"):
        whole = recipe(f"nano-{stage}", stage).model_dump(mode="json")
        for key, value in part.items():
            both = isinstance(value, dict) and isinstance(whole.get(key), dict)
            whole[key] = {**whole[key], **value} if both else value
        path = tmp_path / f"{stage}.yaml"
        path.write_text(yaml.safe_dump(whole), encoding="utf-8")
        try:
            recipe(str(path), stage)
        except InputError as error:
            faults.append(str(error))
    assert len(faults) < 2, faults


@pytest.mark.parametrize("block", of("json"), ids=lambda b: f"{b.page.name}:{b.line}")
def test_json_examples_are_json_and_manifests_where_they_name_media(
    block: Block, work: Path
) -> None:
    rows = [json.loads(line) for line in block.text.splitlines()]
    if any("video" in row for row in rows):
        (work / "example.jsonl").write_text(block.text, encoding="utf-8")
        assert [clip.id for clip in read_manifest(work / "example.jsonl")] == [
            row["id"] for row in rows
        ]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made of them."""
    plain = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", plain, re.M)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def test_every_link_leads_to_a_file_and_a_heading_that_there_is() -> None:
    wrong, count = [], 0
    for page in PAGES:
        for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
            count += 1
            place, _, anchor = target.partition("#")
            if place.startswith("https://"):
                continue
            path = (page.parent / place).resolve() if place else page
            if not path.exists() or not path.is_relative_to(ROOT):
                wrong.append(f"{page.name}: {target}")
            elif anchor and anchor not in anchors(path):
                wrong.append(f"{page.name}: {target} (no such heading)")
    assert wrong == []
    assert count > 30


def test_every_page_can_be_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[^)#]+)", prose(ROOT / "README.md")))
    for folder in {str(Path(name).parent) for name in linked if name.endswith("/index.md")}:
        found = re.findall(r"\]\(([\w-]+\.md)", prose(ROOT / folder / "index.md"))
        linked |= {f"{folder}/{name}" for name in found}
    assert {name for name in NAMES if name.startswith("docs/")} <= linked


def test_every_file_and_module_that_is_named_exists() -> None:
    places = (ROOT, ROOT / "src/affectgpt_r1", ROOT / "examples", ROOT / "examples/compat")
    wrong, count = [], 0
    for name in NAMES:
        for code in codes(ROOT / name):
            if re.fullmatch(r"[a-z][\w.-]*(/[\w.-]+)+/?", code) and code.split("/")[0] in OURS:
                count += 1
                if not any((place / code).exists() for place in places):
                    wrong.append(f"{name}: {code}")
            if re.fullmatch(r"affectgpt_r1(\.\w+)+", code):
                count += 1
                if not named(*code.split(".")[1:]):
                    wrong.append(f"{name}: {code}")
    assert wrong == []
    assert count > 20


OURS = {path.name for place in (ROOT, ROOT / "src/affectgpt_r1") for path in place.iterdir()} - {
    "data",
    "features",
    "runs",
}


def test_every_test_that_is_named_is_one() -> None:
    wrong, count = [], 0
    for name in NAMES:
        file = ""
        for code in codes(ROOT / name):
            if found := re.search(r"\btests/[\w/]+\.py", code):
                file = found[0]
            if picked := re.search(r'-k "?([\w ]+)"?$', code):
                count += 1
                tests = re.findall(r"^def (test_\w+)", (ROOT / file).read_text("utf-8"), re.M)
                terms = picked[1].split(" or ")
                wrong += [
                    f"{name}: {code} in {file}: {term}"
                    for term in terms
                    if not any(term in test for test in tests)
                ]
            elif code.startswith("test_") and not code.endswith(".py"):
                count += 1
                every = "".join(p.read_text("utf-8") for p in (ROOT / "tests").rglob("*.py"))
                if f"def {code}(" not in every:
                    wrong.append(f"{name}: {code}")
    assert wrong == []
    assert count > 10


@pytest.mark.parametrize("name", [n for n in recipe_names() if n != "reward"])
def test_every_recipe_of_the_package_loads_and_is_told_of(name: str) -> None:
    assert recipe(name, "grpo" if name.endswith("grpo") else "cold-start")
    said = (ROOT / "docs/train.md").read_text(encoding="utf-8")
    assert f"`{name}`" in said


def test_the_citation_names_this_release_and_the_paper() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == __version__
    assert {"cff-version", "message", "title", "authors", "license", "type"} <= cited.keys()
    (paper,) = cited["references"]
    assert paper["identifiers"] == [{"type": "other", "value": "arXiv:2508.01318"}]
