"""What can go wrong because of what a user gave us: each class is one line on stderr in the CLI.

Every message names the file, field or flag at fault and says what to do about it.
"""

from collections.abc import Iterable, Sequence


class DiffucoderError(Exception):
    """Base of every error that a user's input can cause.

    `field` is the `GenerationConfig` field at fault, where there is one; messages open with it.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ConfigError(DiffucoderError, ValueError):
    """A `config.json` or a `GenerationConfig` holds a value that cannot work."""


class CheckpointError(DiffucoderError):
    """A checkpoint folder is missing, incomplete or damaged."""


class PromptError(DiffucoderError, ValueError):
    """A prompt is empty, too long for the model's context, or not text."""


class FileError(DiffucoderError):
    """A file has no hole where one is asked for, is no text, or cannot be replaced."""


class HubError(DiffucoderError):
    """The Hugging Face Hub could not be reached, or does not have what was asked for."""


class ConvertError(DiffucoderError):
    """A conversion was asked for that cannot be written."""


class TaskError(DiffucoderError):
    """A file of tasks, texts or results is broken, or does not fit the run."""


class ExecutionError(DiffucoderError):
    """Generated code may not be run, or no process could be started for it."""


class BenchError(DiffucoderError):
    """A measurement was asked for that cannot be made, or of a chip that is not known."""


class DoctorError(DiffucoderError):
    """This machine does not compute what it should."""


class TraceError(DiffucoderError):
    """A trace cannot be written, is damaged, or was written by another version."""


class ChatError(DiffucoderError):
    """A command in a chat, or the file of a saved one, that cannot be followed."""


class SettingsError(DiffucoderError):
    """The file of defaults, or a variable that sets one, holds a key or value that cannot work."""


class TrainError(DiffucoderError):
    """A training run was asked for that cannot be made, cannot go on, or has gone astray."""


def one_of(among: Sequence[str], word: object) -> str:
    """`one of a, b, not 'c'`, and what may be meant."""
    return f"one of {', '.join(among)}, not {word!r}{did_you_mean(str(word), among)}"


def did_you_mean(word: str, among: Iterable[str]) -> str:
    """`; did you mean 'this'?`, where something is spelt much like `word`, capitals or not; otherwise nothing."""
    from difflib import get_close_matches

    names = {one.lower(): one for one in among}
    near = get_close_matches(word.lower(), names, n=1)
    return f"; did you mean {names[near[0]]!r}?" if near else ""
