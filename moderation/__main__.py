"""`python -m moderation`: the same as the command."""

from moderation.cli.app import main

main()
