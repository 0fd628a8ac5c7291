"""What the model is asked, and how its reply is read.

The prompt is AffectGPT's, to the letter (MODEL.md, "LLM and prompt"), as pieces: the places of the
three modality tokens are positions between pieces, so nothing is ever searched for in a subtitle.
The parser here is the only one: reward, evaluation, prediction and server all call
`parse_completion`. It reads lists and AffectGPT's own sentence; it does not look for emotion words
in free prose (that is extraction, PAPER.md).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from affectgpt_r1.emotion.labels import parse_labels

Mode = Literal["answer", "think"]
View = Literal["face", "frame"]

STOP = "###"

#: The question picks the mode: the open-words question is answered at once, the description
#: question with the reasoning first (MODEL.md, "Questions").
QUESTIONS: dict[Mode, str] = {
    "answer": "Please recognize all possible emotional states of the character.",
    "think": "Please infer the person's emotional state and provide your reasoning process.",
}


class Modality(StrEnum):
    """The modality tokens of a prompt, one LLM position each."""

    MULTI = "multi"
    AUDIO = "audio"
    VISUAL = "visual"


class Part(StrEnum):
    """What can be left out of a prompt, to see what it is worth."""

    FACE = "face"
    VOICE = "voice"
    WORDS = "words"


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of prompt text; `trusted` is False for what a user or a subtitle file wrote."""

    text: str
    trusted: bool = True


PromptPiece = Text | Modality

_VIEWS: dict[View, str] = {
    "face": "Meanwhile, we uniformly sample raw frames from the video and extract faces from these "
    "frames",
    "frame": "Meanwhile, we uniformly sample raw frames from the video",
}


def prompt_pieces(
    subtitle: str,
    *,
    mode: Mode = "answer",
    view: View = "face",
    has_audio: bool = True,
    has_visual: bool = True,
    has_subtitle: bool = True,
) -> tuple[PromptPiece, ...]:
    """Build AffectGPT's prompt as pieces in order; a missing modality drops its sentence.

    The merged token needs both sound and picture, so its sentence goes with either. An empty
    subtitle keeps its empty tag; `has_subtitle=False` drops the sentence (for ablations).

    >>> pieces = prompt_pieces("Oh.", has_audio=False)
    >>> [piece for piece in pieces if isinstance(piece, Modality)]
    [<Modality.VISUAL: 'visual'>]
    """
    spoken = Text(subtitle, trusted=False) if subtitle else None
    sentences: tuple[tuple[bool, str, str, PromptPiece | None], ...] = (
        (has_audio and has_visual, "The audio and video merged info is", "Multi", Modality.MULTI),
        (has_audio, "The audio content is as follows", "Audio", Modality.AUDIO),
        (has_visual, _VIEWS[view], "Video", Modality.VISUAL),
        (has_subtitle, "The subtitle of this video is", "Subtitle", spoken),
    )
    pieces: list[PromptPiece] = []
    own = "###Human: "  # one text up to the next piece, so that it is tokenised as the authors' is
    for present, sentence, tag, content in sentences:
        if present:
            own += f"{sentence}: <{tag}>"
            if content is not None:
                pieces += [Text(own), content]
                own = ""
            own += f"</{tag}>. "
    own += "Now, please answer my question based on all the provided information. "
    return (*pieces, Text(f"{own}{QUESTIONS[mode]} ###Assistant: "))


def target_text(labels: tuple[str, ...], description: str | None, mode: Mode) -> str:
    """The reply that cold start teaches, without the stop string.

    No labels means neutral, as in AffectGPT's data (MODEL.md).

    >>> target_text(("happy", "relieved"), None, "answer")
    '<answer>happy, relieved</answer>'
    """
    answer = f"<answer>{', '.join(labels) or 'neutral'}</answer>"
    return answer if mode == "answer" else f"<think>{description or ''}</think>{answer}"


class Problem(StrEnum):
    """Why a completion is not well formed."""

    EMPTY = "empty"
    NO_ANSWER = "no answer block"
    EMPTY_ANSWER = "empty answer block"
    NO_THINK = "no think block"
    EMPTY_THINK = "empty think block"
    UNWANTED_THINK = "think block in answer mode"
    REPEATED_BLOCK = "repeated block"
    TEXT_OUTSIDE = "text outside the blocks"
    UNCLOSED = "unclosed block"
    SENTENCE = "a sentence in place of an answer block"


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's reply, read once for reward, evaluation, prediction and server alike.

    Attributes:
        text: the raw reply, up to the stop string.
        think: the think block's text; None where there is none.
        answer: the answer block's text; None where there is none.
        words: the answer's words, in order, each once, lower case.
        well_formed: exactly the blocks of the mode, non-empty, and nothing else (PAPER.md, format).
        problems: why it is not well formed; empty where it is.
    """

    text: str
    think: str | None
    answer: str | None
    words: tuple[str, ...]
    well_formed: bool
    problems: frozenset[Problem]


_BLOCK = re.compile(r"<(think|answer)>(.*?)</\1>", re.DOTALL)
#: Not a heading of Markdown.
_STOP = re.compile(rf"(?<!#){STOP}(?!#*\s+(?!Human|Assistant)\S)")
_TAG = re.compile(r"</?(?:think|answer)>")
_SENTENCE = re.compile(
    r"emotional state (?:is|are|can be described as)\s*:?\s*(.+?)(?:\.(?:\s|$)|\n|$)",
    re.IGNORECASE | re.DOTALL,
)


def parse_completion(text: str, mode: Mode = "answer") -> Completion:
    """Read a reply of either mode; never raises.

    Text from the stop string on is cut. A reply without blocks is read as AffectGPT's own
    sentence where it is one; it is then not well formed, but has words. The last of several
    answer blocks is read.

    >>> parse_completion("<answer>happy, relieved</answer>").words
    ('happy', 'relieved')
    >>> parse_completion("The character's emotional state is happy, relieved.").words
    ('happy', 'relieved')
    """
    reply = _STOP.split(text, 1)[0].strip()
    blocks = [(kind, content.strip()) for kind, content in _BLOCK.findall(reply)]
    last = dict(blocks)  # of each kind
    think, answer = last.get("think"), last.get("answer")
    problems = _problems(reply, blocks, mode)
    if answer is None and not _TAG.search(reply) and (sentence := _SENTENCE.search(reply)):
        answer = sentence[1].strip()
        problems = problems | {Problem.SENTENCE}
    words = tuple(dict.fromkeys(parse_labels(answer))) if answer else ()
    return Completion(reply, think, answer, words, not problems, problems)


def _problems(reply: str, blocks: Sequence[tuple[str, str]], mode: Mode) -> frozenset[Problem]:
    thinks = [text for kind, text in blocks if kind == "think"]
    answers = [text for kind, text in blocks if kind == "answer"]
    outside = _BLOCK.sub("", reply)
    # One block after the other in the wrong order leaves nothing outside, but is not the format.
    swapped = bool(thinks) and bool(answers) and blocks[0][0] == "answer"
    found = {
        Problem.EMPTY: not reply,
        Problem.NO_ANSWER: not answers,
        Problem.EMPTY_ANSWER: any(not parse_labels(answer) for answer in answers),
        Problem.NO_THINK: mode == "think" and not thinks,
        Problem.EMPTY_THINK: mode == "think" and any(not think for think in thinks),
        Problem.UNWANTED_THINK: mode == "answer" and bool(thinks),
        Problem.REPEATED_BLOCK: len(thinks) > 1 or len(answers) > 1,
        Problem.UNCLOSED: any(_TAG.search(text) for text in (outside, *thinks, *answers)),
        Problem.TEXT_OUTSIDE: swapped or bool(_TAG.sub("", outside).strip()),
    }
    return frozenset(problem for problem, present in found.items() if present)
