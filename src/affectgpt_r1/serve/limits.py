"""What a server lets others do; no server is imported here."""

from dataclasses import dataclass
from pathlib import Path

from cyclopts.types import PositiveFloat, PositiveInt

#: This machine's own addresses.
LOCAL = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits.

    Attributes:
        folder: Files in it can be asked about by their names.
        max_mib: MiB of a request.
        max_duration_s: Seconds of a clip.
        max_open: Requests at a time; more are told to come again.
        per_minute: Requests of one address in a minute.
        workers: Processes that read clips.
        wall_s: Seconds that reading a clip may take.
        request_s: Seconds from a request's first byte to its answer.
    """

    folder: Path | None = None
    max_mib: PositiveInt = 64
    max_duration_s: PositiveFloat = 120.0
    max_open: PositiveInt = 32
    per_minute: PositiveInt = 120
    workers: PositiveInt = 2
    wall_s: PositiveFloat = 30.0
    request_s: PositiveFloat = 120.0
