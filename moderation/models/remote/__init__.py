"""Models behind a server: chat completions (`openai:`), decisions (`decisions:`), System One (`systemone:`).

    content.py    a post as servers get it
    wire.py       what the wires have in common
    chat.py, decisions.py, systemone.py   one wire each
    responses.py  bounds on what a server sends
    failures.py   what an error of the client means
    server.py     places, attempts, deadlines, metrics
    breaker.py    outages
    usage.py      tokens, cost, budget
    model.py      the RemoteModel on top of them

Nothing here imports torch.
"""

from __future__ import annotations

from moderation.models.contract import RemoteModel
from moderation.settings import ModelSettings


def open_model(settings: ModelSettings) -> RemoteModel:
    """The model that the settings name, not started yet. Raises ConfigError."""
    raise NotImplementedError(settings.name)
