from __future__ import annotations

from tests.integration.conftest import field

__all__ = ["field"]
