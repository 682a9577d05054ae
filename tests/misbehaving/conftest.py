from __future__ import annotations

from tests.integration.conftest import harness

__all__ = ["harness"]
