"""Emotion labels: how a list of words is read out of what people and models write.

Two parsers. `reference` is the authors' behaviour to the bit (METRIC.md, "Label parser"), remnants
and all, so that published numbers come out. `robust` is the default for model output. Both return
words as written, lower case, in order, repeats included; neither knows which words are emotions.
"""

import json
import re
import unicodedata
from functools import lru_cache
from typing import Literal

Parser = Literal["robust", "reference"]

_PLAINER = str.maketrans(
    dict.fromkeys("‘’‛ʼ′`´", "'")
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015", "-")
    | dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", "")  # of no width
)
_SEPARATORS = re.compile(
    r"[,;/|\n\r\u2028\u2029、\"“”„«»\[\]{}]|\((?!\d)|(?<!\d)\)|\s-+\s|\s\d{1,3}[.)]\s"
    r"|\s&\s|\s(?:and|or)\s|^(?:and|or)\s|\s(?:and|or)$"
)
_LIST_MARK = re.compile(
    r"^(?:[-*+\u2022\u2023\u25aa\u25cf\u00b7\u2013\u2014>]+|\(?\d{1,3}[.):])\s*"
)
#: What nearly every list looks like, and needs none of the above.
_PLAIN = re.compile(r"\[?(?:WORD, )*WORD\]?".replace("WORD", r"(?!(?:and|or)\b)[a-z]+(?:-[a-z]+)*"))
_EDGE = " \t\f\v\"'“”„«»()[]{}<>*_#.!?:…。！？·•~=+-–—\\"


def parse_labels(value: object, parser: Parser = "robust") -> list[str]:
    r"""Read emotion words out of a label list or a model's answer; never raises.

    Args:
        value: a list of texts, a text, or nothing (None, NaN, "").
        parser: `robust`, or `reference` for published numbers.

    >>> parse_labels("1. Happy\n2. on edge; “Relieved” and calm.")
    ['happy', 'on edge', 'relieved', 'calm']
    >>> parse_labels("[happy, sad].", "reference")
    ['happy', 'sad].']
    """
    return list(read_words(value, parser))


def read_words(value: object, parser: Parser = "robust") -> tuple[str, ...]:
    """The same as a tuple, which may be shared: a text's words are kept, for texts repeat."""
    if isinstance(value, str):
        return _reference(value) if parser == "reference" else _robust(value)
    if isinstance(value, (list, tuple)):
        if parser == "reference":
            return tuple([str(item).lower().strip() for item in value])
        return tuple([word for item in value for word in read_words(item)])
    if hasattr(value, "tolist"):  # an array, as tables hold lists
        return read_words(value.tolist(), parser)
    if value is None or value != value:  # NaN
        return ()
    return read_words(str(value), parser)


@lru_cache(maxsize=1 << 14)
def _reference(text: str) -> tuple[str, ...]:
    # A lone bracket crashes the reference; it names no word.
    text = text.removeprefix("[").removesuffix("]")
    pieces = map(str.strip, text.replace("'", ",").replace('"', ",").split(","))
    return tuple([piece.lower().strip() for piece in pieces if piece])


@lru_cache(maxsize=1 << 14)
def _robust(text: str) -> tuple[str, ...]:
    if _PLAIN.fullmatch(text):
        return tuple(text.strip("[]").split(", "))
    if (listed := _json_list(text)) is not None:
        return tuple(word for item in listed for word in _robust(item))
    text = unicodedata.normalize("NFKC", text).translate(_PLAINER).casefold()
    # Case folding may undo the normal form; a second round makes the result stable.
    text = unicodedata.normalize("NFKC", text)
    pieces = [text]
    while True:  # "a and or b", "1. (happy and sad)": what is stripped uncovers a separator
        split = [_bare(part) for piece in pieces for part in _SEPARATORS.split(piece)]
        if split == pieces:
            return tuple(word for word in split if word)
        pieces = split


def _bare(piece: str) -> str:
    """A piece without list marks, brackets, quotes and punctuation around it."""
    while True:
        bare = " ".join(_LIST_MARK.sub("", piece.strip(_EDGE)).strip(_EDGE).split())
        if bare == piece:
            return bare
        piece = bare


def _json_list(text: str) -> list[str] | None:
    stripped = text.strip()
    if not (stripped.startswith("[") and stripped.endswith("]")):
        return None
    try:
        return [str(item) for item in json.loads(stripped) if item is not None]
    except (ValueError, RecursionError):
        return None
