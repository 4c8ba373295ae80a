"""Errors that a user's input can cause. The command line prints each as one line on stderr.

Every message names the file, field or flag at fault and says what to do about it.
"""

from collections.abc import Iterable, Sequence


class DiffucoderError(Exception):
    """Base of every error that a user's input can cause.

    Attributes:
        field: the field of a configuration, or the option, that is at fault; or None. The message begins with its name.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ConfigError(DiffucoderError, ValueError):
    """A `config.json` or a configuration object holds a value that cannot work."""


class CheckpointError(DiffucoderError):
    """A checkpoint folder is missing, incomplete or damaged."""


class PromptError(DiffucoderError, ValueError):
    """A prompt is empty, too long for the model's context, or not text."""


class ContextError(PromptError):
    """A prompt, or what it asks for, does not fit the model's context."""


class FileError(DiffucoderError):
    """A file to infill has no hole or is not text, or a file cannot be written."""


class HubError(DiffucoderError):
    """The Hugging Face Hub cannot be reached, or does not have the model."""


class ConvertError(DiffucoderError):
    """A conversion cannot be made, or its folder cannot be written."""


class TaskError(DiffucoderError):
    """A file of tasks, texts or results is damaged, or belongs to another run."""


class ExecutionError(DiffucoderError):
    """Generated code may not be run, no process could be started for it, or a package is missing."""


class BenchError(DiffucoderError):
    """A measurement cannot be made, or a chip is not known."""


class DoctorError(DiffucoderError):
    """This machine computes wrong results."""


class TraceError(DiffucoderError):
    """A trace cannot be written, is damaged, or is of another version."""


class ChatError(DiffucoderError):
    """A command in a chat is wrong, or the file of a saved chat cannot be used."""


class SettingsError(DiffucoderError):
    """The file of defaults, or a variable that sets one, holds a wrong key or value."""


class ServerError(DiffucoderError):
    """The server cannot start: its port is taken, or it would be open to others without a key."""


class TrainError(DiffucoderError):
    """A training run cannot start or continue, or has diverged."""


class ClusterError(DiffucoderError):
    """A machine of a cluster cannot be reached, has other versions, or could not do a task."""


class RankError(DiffucoderError):
    """Processes that compute one model together cannot begin: one did not start, or is not equal to the others."""


def one_of(among: Sequence[str], word: object) -> str:
    """`one of a, b, not 'c'`, followed by a guess at what was meant."""
    return f"one of {', '.join(among)}, not {word!r}{did_you_mean(str(word), among)}"


def did_you_mean(word: str, among: Iterable[str]) -> str:
    """`; did you mean 'this'?` where a name is spelt much like `word`, whatever its capitals; otherwise an empty text."""
    from difflib import get_close_matches

    names = {one.lower(): one for one in among}
    near = get_close_matches(word.lower(), names, n=1)
    return f"; did you mean {names[near[0]]!r}?" if near else ""
