"""How far posts are judged, where the posts topic is deleted and made again."""

from __future__ import annotations

from structlog.testing import capture_logs

from moderation.view.lives import Lives
from moderation.view.outcomes import PAST, Judged, Outcomes, Reach
from moderation.view.stores import Progress
from tests.support.logged import events

A, B, C = (letter * 22 for letter in "ABC")
AHEAD, REACHED, GONE = Reach.AHEAD, Reach.REACHED, Reach.GONE


class Case:
    """Outcomes of two partitions, as a view folds them in."""

    def __init__(self, *at: Progress, id: str = A) -> None:
        async def ask() -> dict[str, str]:
            raise AssertionError

        self.lives = Lives(ask)
        self.lives.learn({"posts": id} if id else {})
        self.outcomes = Outcomes(self.lives, "posts")
        self.outcomes.take(dict(enumerate(at)))

    def fold(self, *judged: tuple[int, int, str]) -> None:
        self.outcomes.take(self.outcomes.advanced(Judged(*each) for each in judged))

    def made_again(self, id: str) -> None:
        self.lives.learn({"posts": id})
        self.outcomes.take(self.outcomes.renewed())

    def reach(self, posts: dict[int, int], id: str = "") -> Reach:
        return self.outcomes.reach(posts, id)


def test_a_position_is_reached_when_each_partition_is() -> None:
    case = Case(Progress(0, 7, A), Progress(0, -1, A))
    assert [case.reach({0: 7}), case.reach({0: 7}, A), case.reach({0: 8}), case.reach({0: 7, 1: 0})] == [
        REACHED,
        REACHED,
        AHEAD,
        AHEAD,
    ]
    case.fold((1, 0, A), (0, 8, A), (0, 3, A), (5, 9, A))
    assert case.outcomes.decided == {0: 8, 1: 0}
    assert case.reach({0: 8, 1: 0}) is REACHED
    assert case.reach({2: 0}) is AHEAD  # a partition that was added a moment ago


def test_offsets_of_a_deleted_topic_say_nothing_of_the_new_one() -> None:
    case = Case(Progress(0, 500, A))
    case.made_again(B)
    for id in ("", B):
        assert case.reach({0: 3}, id) is AHEAD
    case.fold((0, 3, B))
    for id in ("", B):
        assert case.reach({0: 3}, id) is REACHED
        assert case.reach({0: 4}, id) is AHEAD


def test_what_was_judged_before_its_topic_was_deleted_stays_judged() -> None:
    case = Case(Progress(0, 500, A))
    case.made_again(B)
    case.fold((0, 3, B))
    assert [case.reach({0: 500}, A), case.reach({0: 501}, A)] == [REACHED, GONE]


def test_a_late_outcome_of_a_deleted_topic_does_not_count_for_the_new_one() -> None:
    """A worker had the post in hand."""
    case = Case(Progress(0, 500, A))
    case.made_again(B)
    case.fold((0, 501, A))
    assert [case.reach({0: 3}), case.reach({0: 501}, A)] == [AHEAD, REACHED]
    case.fold((0, 0, B), (0, 502, A))
    assert [case.reach({0: 0}), case.reach({0: 1}), case.reach({0: 502}, A)] == [REACHED, AHEAD, REACHED]


def test_the_topic_says_where_a_new_life_begins() -> None:
    """A view that reads the verdicts topic from its start, or whose brokers have not given the new id yet."""
    case = Case(Progress(0, -1), id=A)
    case.fold((0, 5, A), (0, 0, B))
    assert [case.reach({0: 0}, B), case.reach({0: 5}, A), case.reach({0: 6}, A)] == [REACHED, REACHED, AHEAD]
    built = Case(Progress(0, -1), Progress(0, -1), id=C)
    built.fold((0, 5, A), (0, 0, B), (1, 9, A))
    assert [built.reach({0: 0}), built.reach({1: 0})] == [AHEAD, AHEAD]
    assert [built.reach({0: 5}, A), built.reach({1: 9}, A), built.reach({0: 0}, B)] == [REACHED] * 3


def test_a_view_that_was_away_keeps_the_positions_of_both_lives_apart() -> None:
    case = Case(Progress(0, 500, A), id=B)
    assert [case.reach({0: 3}), case.reach({0: 3}, B), case.reach({0: 500}, A)] == [AHEAD, AHEAD, REACHED]
    case.fold((0, 3, B))
    assert [case.reach({0: 3}), case.reach({0: 500}, A)] == [REACHED, REACHED]


def test_an_outcome_without_an_id_counts_for_the_topic_that_exists() -> None:
    """An older version of a worker wrote it, or the brokers give no ids."""
    case = Case(Progress(0, 4))
    assert [case.reach({0: 4}), case.reach({0: 4}, A)] == [REACHED, REACHED]
    case.fold((0, 5, ""))
    assert case.reach({0: 5}, A) is REACHED
    case.made_again(B)
    assert case.reach({0: 0}) is AHEAD
    case.fold((0, 0, ""))
    assert [case.reach({0: 0}), case.reach({0: 1})] == [REACHED, AHEAD]


def test_outcomes_without_an_id_beyond_the_end_are_of_a_topic_that_was_deleted() -> None:
    case = Case(Progress(0, 4), Progress(0, 4), Progress(0, 4, B), Progress(0, -1))
    with capture_logs() as logged:
        case.outcomes.take(case.outcomes.checked({0: 5, 1: 4, 2: 1}))
    assert [case.reach({0: 4}, A), case.reach({1: 0}, A), case.reach({2: 4}, B)] == [REACHED, AHEAD, REACHED]
    (event,) = events(logged, "posts_topic_recreated")
    assert (event["partition"], event["decided"], event["end"]) == (1, 4, 4)


def test_what_was_judged_stays_judged_while_the_verdicts_topic_is_read_again() -> None:
    case = Case(Progress(9, 500, A))
    case.outcomes.take({0: Progress(0, -1)})
    case.fold((0, 3, A))
    assert [case.reach({0: 500}, A), case.reach({0: 500}), case.reach({0: 501}, A)] == [REACHED, REACHED, AHEAD]


def test_without_ids_offsets_are_compared_as_they_are() -> None:
    case = Case(Progress(0, 4), id="")
    assert [case.reach({0: 4}), case.reach({0: 4}, A), case.reach({0: 5}, A)] == [REACHED, REACHED, AHEAD]


def test_few_lives_are_remembered() -> None:
    case = Case(Progress(0, 0, A))
    for number in range(3 * PAST):
        case.made_again(f"{number:A>22}")
        case.fold((0, 0, f"{number:A>22}"))
    assert len(case.outcomes._past) == PAST
    assert case.reach({0: 0}, A) is GONE
