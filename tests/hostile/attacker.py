"""An attack as a process of its own, which gives way to what it attacks: its computing would be another machine's.

`-m tests.hostile.attacker NAME ADDRESS CA TOKEN SOURCE`, `-` for what there is none of. Runs until stdin ends; then
prints what it has done, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from contextlib import suppress

from tests.hostile import attacks
from tests.hostile.connection import trusting


async def main(name: str, target: attacks.Target) -> None:
    """Until stdin ends."""
    attack = (attacks.STRANGER | attacks.ADMITTED)[name]
    attacking = asyncio.ensure_future(attack(target))
    await asyncio.to_thread(sys.stdin.read)
    attacking.cancel()
    with suppress(asyncio.CancelledError):
        await attacking
    print(json.dumps(target.done))


if __name__ == "__main__":
    os.nice(19)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # that a server has hung up is what is looked for
    name, address, ca, token, source = sys.argv[1:]
    target = attacks.Target(address, None if ca == "-" else trusting(ca), "" if token == "-" else token, source)  # noqa: S105
    asyncio.run(main(name, target))
