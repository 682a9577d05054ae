"""What the API serves, put together once for all its edges. Knows no transport."""

from __future__ import annotations

from dataclasses import dataclass

from moderation.api.auth import Permit
from moderation.api.errors import RefusalKind, RefusedError
from moderation.api.failures import Failures
from moderation.api.lookups import Encode, Lookups
from moderation.api.pending import PendingPosts
from moderation.api.submissions import Submissions
from moderation.api.validation import WatchQuery
from moderation.api.watches import Watch, Write
from moderation.kafka.post_producer import PostProducer
from moderation.policies import PolicySet
from moderation.settings import Settings
from moderation.view.view import View


@dataclass(frozen=True, slots=True)
class Service:
    """Lookups, watches, submissions and policies. Made by `compose`."""

    settings: Settings
    view: View
    failures: Failures
    lookups: Lookups
    submissions: Submissions
    policy_set: PolicySet | None

    def watch(self, query: WatchQuery, permit: Permit, write: Write) -> Watch:
        """A watch that passes its messages to `write` once it runs. Raises RefusedError while there is no view."""
        self.lookups.check_ready()
        return Watch(self.settings.api, self.view, query, permit, write)

    def policies(self) -> PolicySet:
        """The policies of this deployment. Raises RefusedError when the API was started without them."""
        if self.policy_set is None:
            raise RefusedError(RefusalKind.PRECONDITION, "NO_POLICIES", "this API was started without policies")
        return self.policy_set

    def end_waits_and_watches(self) -> None:
        """Answers waits with what is known, and ends watches, so that their readers continue elsewhere."""
        self.lookups.end_waits()
        self.view.end_feeds()


def compose(
    settings: Settings, view: View, producer: PostProducer, policy_set: PolicySet | None, encode: Encode
) -> Service:
    """The service of a view. `encode`: writes a result as the view's cache of recent verdicts holds it."""
    failures = Failures()
    pending = PendingPosts(settings.api, producer, failures.report)
    view.on_posts_recreated(producer.renewed)
    view.on_outcomes(lambda: pending.settle(view.is_over))
    lookups = Lookups(view, pending, encode)
    submissions = Submissions(settings.media, view, pending, lookups)
    return Service(settings, view, failures, lookups, submissions, policy_set)
