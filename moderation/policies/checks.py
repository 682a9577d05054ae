"""Checks a folder of policies: every mistake and every warning, for `moderation policies check`.

An error keeps the roles from starting. A warning is about what a role would do without a word, and its author may not
want: a text that the model would misread, a threshold that is practically never reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from moderation.policies import certified, loading, numbers, prose, sets
from moderation.policies.folder import undeployed
from moderation.policies.loading import Read
from moderation.policies.mistakes import Kind, Mistake, located
from moderation.policies.policy_set import NO_LIVE
from moderation.policies.schema import Policy

MOST_TOKENS = 1_024  # of one question: what models with a long context take; others take a quarter of theirs
SHORTEN = "shorten its clauses and examples, or write two policies"


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """How a model counts the words of a policy."""

    name: str  # of the model, for messages
    count: Callable[[str], int]  # tokens of a policy's `prose`, with what the prompt adds behind it
    limit: int  # tokens that one question may take; a worker with this model refuses a longer one


@dataclass(frozen=True, slots=True)
class Checked:
    """What a folder holds: the policies that could be read, and all mistakes in the order of files and lines."""

    policies: tuple[Policy, ...]
    mistakes: tuple[Mistake, ...]

    @property
    def errors(self) -> tuple[Mistake, ...]:
        """The mistakes that keep a role from starting."""
        return tuple(mistake for mistake in self.mistakes if mistake.kind is Kind.ERROR)

    @property
    def warnings(self) -> tuple[Mistake, ...]:
        """The mistakes with which a role starts."""
        return tuple(mistake for mistake in self.mistakes if mistake.kind is Kind.WARNING)


def check(folder: Path, *, against: Path | None = None, tokenizer: Tokenizer | None = None) -> Checked:
    """All mistakes in a folder of policies. Never raises for a mistake in the folder; a role raises for the errors.

    against: the same set as it was, to find versions that were not raised; default the folder as the last commit of
    git has it, if it is in a checkout. tokenizer: counts tokens exactly; without it an estimate warns.
    """
    read, mistakes = loading.read_folder(folder)
    mistakes += [
        mistake
        for file in read
        for mistake in (*prose.warnings(file), *numbers.warnings(file), *_of_length(file, tokenizer))
    ]
    mistakes += sets.warnings(read, is_whole=not any(map(_is_error, mistakes)))
    mistakes += undeployed(folder, [file.document.path for file in read]) if read else ()
    mistakes += sets.unraised(read, folder, against)
    mistakes += certified.mistakes(folder, read)
    policies = tuple(file.policy for file in read)
    if policies and not any(policy.counts for policy in policies) and not any(map(_is_error, mistakes)):
        mistakes.append(Mistake(Kind.ERROR, folder, 0, NO_LIVE))
    return Checked(policies, tuple(sorted(mistakes, key=lambda mistake: (mistake.file, mistake.line))))


def _is_error(mistake: Mistake) -> bool:
    return mistake.kind is Kind.ERROR


def _of_length(read: Read, tokenizer: Tokenizer | None) -> Iterator[Mistake]:
    path, node = read.document.path, read.document.node
    if tokenizer is not None:
        tokens, limit = tokenizer.count(read.policy.prose), tokenizer.limit
        if tokens > limit:
            problem = f"the policy takes {tokens:,} tokens of {limit:,} with {tokenizer.name}, so a worker refuses it"
            yield located(path, node, ("violates",), f"{problem}: {SHORTEN}")
    elif (tokens := estimated_tokens(read.policy.prose)) > MOST_TOKENS:
        problem = f"the policy takes about {tokens:,} tokens, and models take {MOST_TOKENS:,} at most"
        yield located(path, node, ("violates",), f"{problem}: {SHORTEN}; --model counts exactly", kind=Kind.WARNING)


def estimated_tokens(text: str) -> int:
    """Tokens of a text as widespread tokenizers count them, roughly: four letters of English, one of other scripts."""
    plain = sum(character.isascii() for character in text)
    return -(-plain // 4) + len(text) - plain
