"""An attack as a process with the lowest priority: a real attacker computes on another machine.

`-m tests.hostile.attacker NAME ADDRESS CA TOKEN SOURCE`, with `-` for an absent CA or token. Runs until stdin ends.
Then prints what it has done, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from contextlib import suppress

from tests.hostile import attacks
from tests.support.connection import trusting


async def main(name: str, target: attacks.Target) -> None:
    """Runs the attack until stdin ends."""
    attack = (attacks.UNAUTHENTICATED | attacks.ADMITTED)[name]
    attacking = asyncio.ensure_future(attack(target))
    await asyncio.to_thread(sys.stdin.read)
    attacking.cancel()
    with suppress(asyncio.CancelledError):
        await attacking
    print(json.dumps(target.done))


if __name__ == "__main__":
    os.nice(19)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # connections that the server closes are expected
    name, address, ca, token, source = sys.argv[1:]
    target = attacks.Target(address, None if ca == "-" else trusting(ca), "" if token == "-" else token, source)  # noqa: S105
    asyncio.run(main(name, target))
