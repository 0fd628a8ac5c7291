"""Reading what somebody sent; here, because processes that read need no torch."""

from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from affectgpt_r1.clips import Clip
from affectgpt_r1.emotion.lexicon import Lexicon
from affectgpt_r1.errors import InputError, MediaError
from affectgpt_r1.evaluation import scoring
from affectgpt_r1.evaluation.answers import read_answers
from affectgpt_r1.media import ClipMedia
from affectgpt_r1.media.attach import portrait
from affectgpt_r1.media.audio import read_waveform
from affectgpt_r1.media.container import opened
from affectgpt_r1.perception.features import EncoderSource


def look(
    source: EncoderSource, max_duration_s: float, clip: Clip
) -> tuple[ClipMedia, dict[str, Any]]:
    """Read a clip's video file for the encoders and for people; run in another process.

    Raises:
        MissingFileError, MediaError: as `read_media`, or it is longer than that.
    """
    path = clip.video or Path()
    with opened(path, max_duration_s):  # by what it claims, before anything is decoded
        media = source.read(clip)
    if media.duration_s > max_duration_s:
        raise MediaError(f"{path} lasts over {max_duration_s:g} s: cut it into clips")
    shown = portrait(media.faces if source.view == "face" else media.frames, read_waveform(path)[0])
    return source.seen(media), shown


def score_of(body: bytes, rule: scoring.Rule, lexicon: Lexicon) -> dict[str, Any]:
    """Score answers, JSON Lines; run in another process.

    Raises:
        InputError: they cannot be read or scored.
    """
    with NamedTemporaryFile(prefix="affectgpt-r1-") as kept:
        kept.write(body)
        kept.flush()
        try:
            rows = read_answers(Path(kept.name))
        except InputError as error:
            raise InputError(str(error).replace(kept.name, "the request")) from None
    return scoring.score_row(scoring.keep(rows, rule, "the request"), rule, lexicon)
