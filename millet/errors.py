"""The errors Millet raises on purpose: one line that says what was wrong and what to do.

Every one derives from `MilletError`, so `except millet.MilletError` catches all of them, and the command line prints
them as one line with exit code 2. Anything else that escapes is a bug in Millet.
"""


class MilletError(Exception):
    """Base class. `str(error)` is the whole message for a person: what is wrong, then what to do."""


class UnknownModel(MilletError):
    """No model has this name, or nothing is at this path."""


class UnknownTask(MilletError):
    """No task has this name, or nothing that is one is at this path."""


class UnsupportedModel(MilletError):
    """The model exists, but its architecture, quantisation or template is not one Millet can run."""


class BadWeights(MilletError):
    """A weight file is truncated, corrupt, incomplete, or disagrees with its configuration."""


class DownloadFailed(MilletError):
    """A model could not be fetched: no network, no source answered, a checksum differed, or the disk is full."""


class OutOfMemory(MilletError):
    """The weights or the cache would not fit into this machine's memory."""


class KernelsUnavailable(MilletError):
    """The native kernels cannot be compiled, or are not what MILLET_KERNELS or MILLET_NATIVE_LIBRARY asks for."""


class BadRequest(MilletError):
    """The caller asked for something impossible: sampling values, an empty prompt, malformed messages."""


class PromptTooLong(BadRequest):
    """The prompt does not fit into the model's context (or into the cache the engine was given).

    prompt_tokens: how many it has, where they were counted."""

    def __init__(self, message: str, prompt_tokens: int | None = None) -> None:
        super().__init__(message)
        self.prompt_tokens = prompt_tokens
