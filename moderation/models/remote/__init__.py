"""Models behind a server: chat completions (`openai:`), decisions (`decisions:`), System One (`systemone:`).

    client.py     the HTTP client
    content.py    a post as servers get it
    wire.py       what the wires have in common
    chat.py, decisions.py, systemone.py   one wire each
    completion.py   a chat completion as servers send it
    typed.py, answers.py   what the wires of decision models share
    sight.py      whether a server's model sees pictures
    probability.py   scores from probabilities and logprobs
    responses.py  bounds on what a server sends
    failures.py   what an error of the client means
    server.py     places, attempts, deadlines, metrics
    breaker.py    outages
    usage.py      tokens, cost, budget
    model.py      the RemoteModel on top of them

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from moderation.errors import ConfigError
from moderation.models.contract import RemoteModel
from moderation.models.remote.chat import Chat
from moderation.models.remote.client import client_of
from moderation.models.remote.decisions import Decisions
from moderation.models.remote.model import ServedModel
from moderation.models.remote.systemone import SystemOne
from moderation.models.remote.wire import Wire
from moderation.settings import ModelSettings

WIRES: dict[str, Callable[[ModelSettings], Wire]] = {"openai": Chat, "decisions": Decisions, "systemone": SystemOne}


def open_model(settings: ModelSettings) -> RemoteModel:
    """The model that the settings name, not started yet. Raises ConfigError."""
    wire, _, model = settings.name.partition(":")
    if not model:
        raise ConfigError(f"MODERATION_MODEL is {settings.name!r}: after the colon goes the model's name at its server")
    make = partial(WIRES[wire], settings)
    return ServedModel(make(), client_of(settings), settings, make)
