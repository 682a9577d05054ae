"""A change of thresholds on past verdicts, in the form of any other change. Nothing is sampled: figures are exact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from moderation.evaluation.changes import flipped
from moderation.evaluation.changes.changes import ALL, FLIPS, Cell, Change, Effect, Flip, Load, Quality, Slice
from moderation.evaluation.changes.redecided import MEANING, Cells, Redecided
from moderation.evaluation.changes.strata import Bounds, Stratum
from moderation.types import Outcome


def change_of_redecided(found: Redecided) -> Change:
    """The effects on verdicts, and by each policy. The unit is a verdict. A policy that does not apply allows."""
    total = found.whole.total
    effects = [_effect(ALL, found.whole, found.tenants, ())]
    for id, cells in found.policies.items():
        tenants = {tenant: each for (policy, tenant), each in found.policy_tenants.items() if policy == id}
        of_verdicts = Cells(Counter(cells.counts) + Counter({(Outcome.ALLOW, Outcome.ALLOW): found.apart[id]}))
        effects.append(_effect(id, of_verdicts, tenants, (found.nearest[id], found.farthest[id])))
    return Change((Stratum("all verdicts", total, total),), tuple(effects), 0)


def left_out_of(found: Redecided) -> dict[str, int]:
    """Verdicts that could not be decided again, by why; of a policy, findings."""
    whole = {MEANING[why]: number for why, number in found.left_out.items()}
    by_policy = {
        f"findings of {id}: {MEANING[why]}": number
        for id, reasons in found.policy_left_out.items()
        for why, number in reasons.items()
    }
    return whole | by_policy


def quality_without_labels(effect: Effect) -> Quality:
    """What is known of the quality of a change while no flip has a label: each may be right or wrong."""

    def most(before: bool, after: bool) -> Bounds:
        moves = [
            cell
            for cell in effect.cells
            if (cell.before is not Outcome.ALLOW) is before and (cell.after is not Outcome.ALLOW) is after
        ]
        return Bounds(0.0, 0.0, sum(cell.share.high for cell in moves))

    gained, lost = most(before=False, after=True), most(before=True, after=False)
    one_sided = [cell for cell in effect.cells if Outcome.ALLOW in (cell.before, cell.after)]
    return Quality(effect.policy, sum(cell.judged for cell in one_sided), 0, gained, lost, gained, lost)


def _effect(policy: str, cells: Cells, tenants: Mapping[str, Cells], flips: Sequence[Sequence[flipped.Flip]]) -> Effect:
    nearest, farthest = ([_flip(flip) for flip in side] for side in flips) if flips else ([], [])
    named = {flip.post_id for flip in nearest}
    return Effect(
        policy=policy,
        cells=tuple(
            Cell(*move, cells.counts.get(move, 0), _exact(cells.counts.get(move, 0), cells.total)) for move in FLIPS
        ),
        flips=_exact(cells.flips, cells.total),
        flagged=_load(cells, (Outcome.REVIEW, Outcome.REMOVE)),
        removed=_load(cells, (Outcome.REMOVE,)),
        review=_load(cells, (Outcome.REVIEW,)),
        slices=tuple(
            Slice("tenant", tenant, each.total, each.flips, each.flips / max(1, each.total))
            for tenant, each in sorted(tenants.items())
            if tenant
        ),
        nearest=tuple(nearest),
        farthest=tuple(flip for flip in farthest if flip.post_id not in named),
    )


def _exact(hits: int, total: int) -> Bounds:
    share = hits / total if total else 0.0
    return Bounds(share, share, share)


def _load(cells: Cells, wanted: Iterable[Outcome]) -> Load:
    before, after = (cells.share(side, *wanted) for side in (False, True))
    change = after - before
    return Load(Bounds(before, before, before), Bounds(after, after, after), Bounds(change, change, change))


def _flip(flip: flipped.Flip) -> Flip:
    slices = {"tenant": flip.tenant} if flip.tenant else {}
    return Flip(flip.post_id, slices, flip.before, flip.after, flip.probability, flip.probability, flip.distance)
