"""The real command with the double that misbehaves among its models: `python -m tests.misbehaving.worker worker`."""

from __future__ import annotations

from moderation import cli, models

if __name__ == "__main__":
    models.MODELS["misbehaving"] = "tests.misbehaving.model:load"
    cli.main()
