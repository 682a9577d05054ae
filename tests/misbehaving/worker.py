"""The real command, with the misbehaving fake among its models: `python -m tests.misbehaving.worker worker`."""

from __future__ import annotations

from moderation import models
from moderation.cli import app

if __name__ == "__main__":
    models.MODELS["misbehaving"] = "tests.support.misbehaving_model:load"
    app.main()
