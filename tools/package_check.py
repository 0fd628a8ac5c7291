"""What `pip install` pulls without extras: the wheel's content, its size, and that it works alone.

    python tools/package_check.py

It builds the wheel, installs it into an empty environment, and scores, rewards and asks for help
there. Standard library only; pip fetches the dependencies. Exit status 1: not as promised.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHEEL_MB, PULLED_MB, IMPORT_S = 1.0, 60.0, 0.2
#: What the program reads at run time: without one of these it fails at somebody else's place.
PARTS = (
    "affectgpt_r1/py.typed",
    "affectgpt_r1/evaluation/templates/report.html",
    "affectgpt_r1/serve/static/page.js",
    "affectgpt_r1/model/nano/tokenizer.json",
    "affectgpt_r1/emotion/data/builtin.json",
    "affectgpt_r1/datasets/published.yaml",
    "affectgpt_r1/perception/data/speech-signal.json",
    "affectgpt_r1_demo/lines.jsonl",
    "affectgpt_r1_demo/py.typed",
    "affectgpt_r1_reproduction/py.typed",
    "affectgpt_r1_reproduction/templates/table.svg",
)
ABSENT = ("torch", "transformers", "av", "cv2", "safetensors", "matplotlib", "lemminflect")
SCORE = '{"id": "a", "words": ["joyful"], "labels": ["happy"]}\n'
REWARD = '{"completion": "<answer>joyful</answer>", "labels": ["happy"]}\n'
IMPORT = """
import sys, time
began = time.perf_counter()
import affectgpt_r1
print(time.perf_counter() - began)
"""


def main() -> int:
    """Check the wheel, then the environment it is installed into."""
    with tempfile.TemporaryDirectory() as folder:
        wheel = build(Path(folder))
        faults = check_wheel(wheel)
        faults += check_install(wheel, Path(folder) / "empty")
    for fault in faults:
        print(f"NOT AS PROMISED: {fault}")
    return int(bool(faults))


def build(folder: Path) -> Path:
    """Make the wheel."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--wheel-dir", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def check_wheel(wheel: Path) -> list[str]:
    """Say what is in a wheel; what should not be as it is."""
    size_mb = wheel.stat().st_size / 1e6
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    print(f"wheel: {wheel.name}, {size_mb:.3f} MB, {len(names)} files")
    faults = [f"the wheel lacks {part}" for part in PARTS if part not in names]
    sources = [ROOT / folder for folder in ("src", "reproduction")]
    yaml = [str(path.relative_to(place)) for place in sources for path in place.rglob("*.yaml")]
    faults += [f"the wheel lacks {name}" for name in sorted(yaml) if name not in names]
    packages = {"affectgpt_r1", "affectgpt_r1_demo", "affectgpt_r1_reproduction"}
    roots = {*packages, wheel.name.rsplit("-", 3)[0] + ".dist-info"}
    faults += [f"the wheel holds {name}" for name in names if name.split("/")[0] not in roots]
    if size_mb >= WHEEL_MB:
        faults.append(f"the wheel has {size_mb:.2f} MB, and {WHEEL_MB} is the limit")
    return faults


def check_install(wheel: Path, place: Path) -> list[str]:
    """Install into an empty environment, and use what works without extras."""
    venv.create(place, with_pip=True)
    libraries = next(place.glob("lib/python3*/site-packages"))
    before = size_of(libraries)
    python = str(place / "bin/python")
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    pulled = place / "pulled"
    subprocess.run([*pip, "download", "--dest", str(pulled), str(wheel)], check=True)
    pulled_mb = size_of(pulled) / 1e6
    wheels = len([*pulled.iterdir()])
    print(f"pulled without extras: {pulled_mb:.1f} MB in {wheels} wheels")
    alone = ["install", "--no-index", "--find-links", str(pulled)]
    subprocess.run([*pip, *alone, str(wheel)], check=True)
    print(f"installed without extras: {(size_of(libraries) - before) / 1e6:.0f} MB more, of which")
    entries = [path for path in libraries.iterdir() if path.name not in ("pip", "setuptools")]
    for path in sorted(entries, key=size_of, reverse=True)[:8]:
        print(f"  {size_of(path) / 1e6:5.1f} MB {path.name}")
    faults = [f"{name} is installed without an extra" for name in ABSENT if has(python, name)]
    if pulled_mb >= PULLED_MB:
        faults.append(f"{pulled_mb:.0f} MB are pulled, and {PULLED_MB:.0f} is the limit")
    said = [run(python, "", "-c", IMPORT) for _ in range(5)]
    seconds = sorted(float(text) for text in said)[2]
    print(f"import affectgpt_r1: {seconds:.4f} s (median of five)")
    if seconds > IMPORT_S:
        faults.append(f"the import takes {seconds:.2f} s, and {IMPORT_S} is the limit")
    program = str(place / "bin/affectgpt-r1")
    if "Usage: affectgpt-r1" not in run(program, "", "--help"):
        faults.append("--help does not help")
    if json.loads(run(program, SCORE, "score", "-"))["f"] != 1.0:
        faults.append("score gives another score")
    if json.loads(run(program, REWARD, "reward", "reward", "-"))["total"] != 2.0:
        faults.append("reward gives another reward")
    return faults


def has(python: str, name: str) -> bool:
    """Whether a module is there."""
    code = f"import importlib.util as u; print(u.find_spec({name!r}) is not None)"
    return run(python, "", "-c", code) == "True\n"


def run(program: str, given: str, *words: str) -> str:
    """What a program prints; it must end well."""
    done = subprocess.run(
        [program, *words], input=given, text=True, capture_output=True, check=True
    )
    return done.stdout


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


if __name__ == "__main__":
    sys.exit(main())
