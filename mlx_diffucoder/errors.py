"""What can go wrong because of what a user gave us: each class is one line on stderr in the CLI.

Every message names the file, field or flag at fault and says what to do about it.
"""


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
