"""`moderation policies check`, `show` and `schema`: what is wrong with policies, and what the model reads of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moderation import settings
from moderation.cli.options import AsJson, err, out
from moderation.errors import ConfigError
from moderation.types import Standing

if TYPE_CHECKING:
    from moderation.policies import Policy, Tokenizer
    from moderation.policies.certified import Basis
    from moderation.policies.mistakes import Mistake

Folder = Annotated[Path | None, typer.Argument(help="folder of the policy set; default MODERATION_POLICIES")]
ModelName = Annotated[
    str | None, typer.Option("--model", help="count tokens as this model does: hub id, folder or demo")
]


def check(
    folder: Folder = None,
    model: ModelName = None,
    against: Annotated[
        Path | None, typer.Option(help="the set as it was, to find versions that were not raised; default: as in git")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Validate policies, golden sets and certificates. Mistakes have file, line and key; an error exits with 2."""
    from moderation import policies
    from moderation.policies import certified

    folder = folder or settings.load().policies
    tokenizer = _tokenizer(model)
    checked = policies.check(folder, against=against, tokenizer=tokenizer)
    mistakes = [*checked.mistakes, *_golden_mistakes(folder)]
    errors = [mistake for mistake in mistakes if mistake.kind == "error"]
    warnings = [mistake for mistake in mistakes if mistake.kind == "warning"]
    digest = "" if checked.errors else policies.PolicySet.of(checked.policies).digest
    stands = certified.bases(folder, checked.policies)
    if as_json:
        listed = [
            {"kind": each.kind, "file": str(each.file), "line": each.line, "text": each.text} for each in mistakes
        ]
        rows = [
            _described(policy, tokenizer) | _certificate(policy, stands.get(policy.id)) for policy in checked.policies
        ]
        typer.echo(json.dumps({"digest": digest, "policies": rows, "mistakes": listed}, indent=1, ensure_ascii=False))
    else:
        for mistake in mistakes:
            err.print(str(mistake), highlight=False, markup=False)
        if digest:
            for policy in checked.policies:
                lines = [*_lines(policy, tokenizer), *_footing(policy, stands.get(policy.id))]
                out.print(*lines, sep="\n  ", highlight=False, markup=False)
            count = len(checked.policies)
            out.print(f"{count} {'policy' if count == 1 else 'policies'}, digest {digest}", highlight=False)
        for kind, found in (("error", errors), ("warning", warnings)):
            if found:
                err.print(f"{len(found)} {kind}{'' if len(found) == 1 else 's'}", highlight=False)
    if errors:
        sys.exit(2)


def _golden_mistakes(folder: Path) -> Sequence[Mistake]:
    """The mistakes in golden sets. Roles read none of these files, and start with them."""
    from moderation.evaluation.posts import golden
    from moderation.settings import MediaSettings

    return list(golden.lint(folder, MediaSettings()))


def show(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="ids of policies; default: all")] = None,
    folder: Annotated[
        Path | None, typer.Option("--policies", help="folder of the policy set; default MODERATION_POLICIES")
    ] = None,
    model: ModelName = None,
    as_json: AsJson = False,
) -> None:
    """Print policies exactly as the model reads them, with their tokens. Drafts and retired ones are shown, too."""
    from moderation.policies import prompts
    from moderation.policies.loading import load_policies
    from moderation.types import Content

    by_id = {policy.id: policy for policy in load_policies(folder or settings.load().policies)}
    if unknown := [id for id in ids or () if id not in by_id]:
        raise ConfigError(f"there is no policy {', '.join(unknown)}; the folder has {', '.join(by_id)}")
    chosen = [by_id[id] for id in ids or by_id]
    tokenizer = _tokenizer(model)
    prompt = prompts.render(Content("<the post's text>", (), ""), [policy.question_for_model for policy in chosen])
    before = "".join(part.text for part in prompt.shared if not isinstance(part, prompts.Slot))
    if as_json:
        rows = [
            {**_described(policy, tokenizer), "reads": branch}
            for policy, branch in zip(chosen, prompt.branches, strict=True)
        ]
        typer.echo(json.dumps({"before": before, "policies": rows}, indent=1, ensure_ascii=False))
        return
    _print_text("before each policy, with the post's pictures", before)
    for policy, branch in zip(chosen, prompt.branches, strict=True):
        _print_text(f"{policy.id}, version {policy.version}, {policy.status}, {_tokens(policy, tokenizer)}", branch)


def schema() -> None:
    """Print the JSON Schema of a policy file, for editors."""
    from moderation.policies import json_schema

    typer.echo(json_schema(), nl=False)


def _tokenizer(model: str | None) -> Tokenizer | None:
    """What counts tokens as the model does. Raises ConfigError."""
    if model is None:
        return None
    from moderation import models
    from moderation.policies import Tokenizer

    loaded = settings.load().model
    count, limit = models.question_tokens(loaded.model_copy(update={"name": model}))
    return Tokenizer(model, count, limit)


def _print_text(title: str, text: str) -> None:
    """A title, and then the text as it is."""
    out.print(f"--- {title}", style="bold", highlight=False, markup=False)
    typer.echo(text.rstrip("\n"))


def _lines(policy: Policy, tokenizer: Tokenizer | None) -> list[str]:
    """A policy's title line, and what decides: question, scope, thresholds."""
    at = policy.thresholds
    lines = [
        f"{policy.id}, version {policy.version}, {policy.status}, severity {policy.severity}",
        f"asks: {policy.question}",
        f"about: {_scope(policy)}",
        f"review from {at.review}, remove from {at.remove}, no answer below mass {at.mass}, on error {policy.on_error}",
    ]
    return [*lines, _tokens(policy, tokenizer)] if tokenizer else lines


def _footing(policy: Policy, basis: Basis | None) -> list[str]:
    """What its threshold stands on, in a line; none where it has no certificate and requires none."""
    if basis is None:
        return []
    if (certificate := basis.certificate) is None:  # one that cannot be read is an error, and no policy is described
        return ["requires a certificate, and there is none: REMOVE becomes REVIEW"]
    needs = "requires a certificate, and " if policy.certificate else ""
    precision, model = certificate.precision, certificate.model
    if basis.standing is not Standing.VALID:
        then = "REMOVE becomes REVIEW" if policy.certificate else "findings name no certificate"
        return [f"{needs}{certificate.id} does not hold ({basis.standing}): {then}"]
    says = f"precision at least {precision.at_least} with confidence {precision.confidence} at remove"
    ends = f"until {certificate.expires_at.astimezone(UTC):%Y-%m-%d}"
    return [f"stands on certificate {certificate.id}: {says}, {ends}, with model {model.name} {model.digest[:12]}"]


def _certificate(policy: Policy, basis: Basis | None) -> dict[str, Any]:
    """The same as JSON, with the whole certificate; null where the policy has none and requires none."""
    if basis is None:
        return {"certificate": None}
    found = basis.certificate
    content = {"id": found.id, **found.model_dump(mode="json")} if found else {}
    return {"certificate": {"required": bool(policy.certificate), "standing": basis.standing, **content}}


def _tokens(policy: Policy, tokenizer: Tokenizer | None) -> str:
    from moderation.policies.checks import estimated_tokens

    if tokenizer is None:
        return f"about {estimated_tokens(policy.prose)} tokens; --model counts them"
    return f"{tokenizer.count(policy.prose)} tokens of {tokenizer.limit} with {tokenizer.name}"


def _scope(policy: Policy) -> str:
    """Which posts the policy is asked of, in words."""
    scope = policy.applies_to
    limits: Mapping[str, Sequence[str]] = {"in": scope.languages, "shown as": scope.surfaces}
    media = "all posts" if set(scope.media) == {"text", "image"} else f"posts with {' or '.join(scope.media)}"
    return ", ".join([media, *(f"{word} {' or '.join(some)}" for word, some in limits.items() if "*" not in some)])


def _described(policy: Policy, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """A policy as JSON: what decides, in the keys of its file."""
    keys = {"id", "version", "status", "severity", "applies_to", "question", "thresholds", "on_error"}
    described = policy.model_dump(mode="json", include=keys)
    if tokenizer:
        described |= {"tokens": tokenizer.count(policy.prose), "most_tokens": tokenizer.limit, "model": tokenizer.name}
    return described
