"""Options that several commands share: types with their checks, and groups.

A group is a dataclass whose fields are options; `Parameter("*")` keeps its name out of theirs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, Token
from cyclopts.validators import Number

from affectgpt_r1.dialogue import Mode, View
from affectgpt_r1.evaluation.render import Format


def whole(_: object, tokens: Sequence[Token]) -> int:
    """A whole number; by itself cyclopts would round 1.5 to 2."""
    if not tokens[0].value.removeprefix("-").isdecimal():
        raise ValueError(f"{tokens[0].value} is no whole number")
    return int(tokens[0].value)


Paths = Annotated[Path, Parameter(required=True)]
Words = Annotated[str, Parameter(required=True)]
Text = Annotated[str, Parameter(allow_leading_hyphen=True)]
Whole = Annotated[int, Parameter(converter=whole)]
Count = Annotated[Whole, Parameter(validator=Number(gte=1))]
Seconds = Annotated[float, Parameter(validator=Number(gte=1))]
MiB = Annotated[Whole, Parameter(validator=Number(gte=1024))]
LexiconName = Literal["builtin", "mer2025", "mer2026"]
Level = Literal[1, 2]
Form = Annotated[Format, Parameter("--format", help="Of the answer.")]
Cache = Annotated[Path | None, Parameter(help="Feature cache [default: the user's].")]
Half = Annotated[bool, Parameter("--bf16", help="Weights in bfloat16: half the memory.")]
Overrides = Annotated[
    list[str] | None, Parameter("--set", help="Override a recipe: key.sub=value; repeatable.")
]
LexiconFolder = Annotated[
    Path | None, Parameter(help="Folder of the authors' tables, for mer2025 and mer2026.")
]


@Parameter("*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Encoders:
    """Whose features: a profile's encoders, or others in their place.

    Attributes:
        profile: Whose encoders.
        visual: Another: folder or hub name.
        audio: Another: folder or hub name.
        view: What the visual encoder sees.
        face_model: A YuNet face detector (ONNX) [default: OpenCV's cascade].
    """

    profile: Literal["nano", "small", "full"]
    visual: str | None = None
    audio: str | None = None
    view: View | None = None
    face_model: Path | None = None


@Parameter("*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How a model answers.

    Attributes:
        mode: Answer alone, or think.
        decode: greedy, or as published: temperature 1, top-p 0.9, top-k 20.
        seed: Of the sampling, with each clip's id.
    """

    mode: Mode = "answer"
    decode: Literal["greedy", "published"] = "greedy"
    seed: Annotated[Whole, Parameter("--decode-seed")] = 0
