"""The authors' lexicon tables: fetched for a user who accepts their terms, and checked.

The files stay theirs: they are not part of this package, and nothing is fetched unless asked for.
"""

import hashlib
import http.client
import urllib.request
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from affectgpt_r1.errors import LexiconError
from affectgpt_r1.files import sha256_of, write_whole
from affectgpt_r1.progress import Progress, counted

#: What a user accepts; printed before anything is fetched.
TERMS = (
    "The emotion-wheel tables are published by the authors of MER2024 to MER2026 in the MERTools "
    "repository (github.com/zeroQiaoba/MERTools), under Apache-2.0 with a line in its README that "
    "limits them to non-commercial use."
)
SOURCE = "https://raw.githubusercontent.com/zeroQiaoba/MERTools"
_OF_2025 = "fb8dda0ebd52281f69affcbec3cc34dfd281f1ba/MER2025/MER2025_Track23/emotion_wheel"
_OF_2026 = "1052cb82fb05b91f821bd197de5bb123fcc9b0e3/MER2026/MER2026_Track2/emotion_wheel"
_SUMS = files("affectgpt_r1.emotion") / "data" / "authors.sha256"

#: File in the folder -> its place in the repository, at a fixed commit, and its SHA-256.
FILES: Mapping[str, tuple[str, str]] = {
    name: (f"{_OF_2026 if '2026' in name else _OF_2025}/{name.rpartition('/')[2]}", digest)
    for digest, name in map(str.split, _SUMS.read_text(encoding="utf-8").splitlines())
}


def download(folder: Path, *, source: str = SOURCE, progress: Progress | None = None) -> None:
    """Fetch what is missing or differs in a folder; each file appears checked and whole.

    Args:
        folder: made where needed.
        source: address before the commit, for a mirror.
        progress: told how many of how many files are there.

    Raises:
        LexiconError: a file cannot be fetched, or is not the one that was published.
    """
    wrong = verify(folder)
    for name, (place, digest) in counted(FILES.items(), len(FILES), progress):
        if name in wrong:
            _fetch(f"{source}/{place}", folder / name, digest)


def verify(folder: Path) -> dict[str, str]:
    """The files of a folder that are not as published: name -> `missing` or `differs`."""
    wrong = {}
    for name, (_, digest) in FILES.items():
        if not (folder / name).is_file():
            wrong[name] = "missing"
        elif sha256_of(folder / name) != digest:
            wrong[name] = "differs"
    return wrong


def _fetch(address: str, path: Path, digest: str) -> None:
    try:
        with urllib.request.urlopen(address, timeout=30) as reply:
            content = bytes(reply.read())
        if (found := hashlib.sha256(content).hexdigest()) != digest:
            raise ValueError(f"its SHA-256 is {found}, not the published {digest}")
        write_whole(path, content)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise LexiconError(
            f"{address} cannot be fetched to {path} ({' '.join(str(error).split())}): try again "
            "where there is a connection and room, or copy the folder and name it with "
            "--lexicon-folder"
        ) from None
