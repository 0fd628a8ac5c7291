"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers are the parallelism: two processes with two threads each on two cores wait for
    # each other at every small product, and take eight times as long.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of reference data beside the repository; absent on a newcomer's machine."""
    named = os.environ.get("AFFECTGPT_R1_SHARED")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "reference").is_dir():
        pytest.skip(
            "no reference data: they lie in ../shared or AFFECTGPT_R1_SHARED, and are not needed "
            "to use the project"
        )
    return folder
