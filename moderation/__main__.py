"""`python -m moderation`: the same as the command."""

from moderation.cli import main

main()
