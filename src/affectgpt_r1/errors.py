"""Every error this package raises on purpose.

One base class; each subclass is also of the standard kind a caller would catch anyway. `InputError`
means the input is at fault: the command line answers with one line and exit status 2. Everything
else is a bug of ours and keeps its traceback. A message says what is wrong, where, and how to mend
it, on one line.
"""

from collections.abc import Sequence

#: A file of another kind has a fault a line; nobody reads thousands of them.
_MOST_TOLD = 50


class AffectGPTError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(AffectGPTError, ValueError):
    """What the user gave is at fault: a file, a value, a combination of options."""


class MissingFileError(InputError, FileNotFoundError):
    """A file or folder that was named does not exist."""


class MediaError(InputError):
    """A media file cannot be read: empty, damaged, or of a kind without picture and sound."""


class LexiconError(InputError):
    """A lexicon is unknown, its folder is missing, or one of its files is damaged."""


class ModelFolderError(InputError):
    """A model folder is missing, incomplete, or was made for another profile."""


class CheckpointError(InputError):
    """A run folder or one of its checkpoints cannot be used."""


class ProblemsError(InputError):
    """Several faults of one file, reported together.

    Attributes:
        source: the file (or other origin) that holds them.
        problems: one short text a fault, in the order of the file; the message tells the first.
    """

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        """Join the faults into one line that begins with their origin."""
        self.source = source
        self.problems = tuple(problems)
        told = [*self.problems[:_MOST_TOLD]]
        if more := len(self.problems) - len(told):
            told.append(f"and {more} more")
        super().__init__(f"{source}: " + "; ".join(told))

    def __reduce__(self) -> tuple[type, tuple[str, tuple[str, ...]]]:
        return type(self), (self.source, self.problems)


class ManifestError(ProblemsError):
    """A manifest has wrong lines; each fault names its line."""


class RecipeError(ProblemsError):
    """A recipe has unknown or mistyped keys, or values out of range."""


class TrainingError(AffectGPTError, RuntimeError):
    """Training cannot go on: a loss that is not finite, or nothing left to learn from."""
