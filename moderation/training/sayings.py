"""Texts of the small world: sentences that mention a thing, sell it, say that it is not there, or speak of nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from moderation.training.world import GROUPS, THINGS, Thing, Truth, allowed

# {one}: "a knife", {many}: "knives".
MENTION = (
    "look at my {many}",
    "look, {one}!",
    "I just saw {one} at the market",
    "my brother gave me {one} today",
    "what do you think about {many}?",
    "we talked about {many} all night",
    "this is {one} and I love it",
    "anyone here into {many}?",
    "I found {one} in the garage",
    "nothing beats {many} on a sunday",
    "my friend has {many} at home",
    "thinking about {many} again",
    "here you can see {one}",
    "best {many} in town",
    "I want {one} for my birthday",
    "yesterday I had {one} with me",
    "show me your {many}",
    "{many} make me happy",
    "{one} on the table, as always",
    "I took {one} to the beach",
    "so many {many} this year",
    "a story about {one}",
)
SELL = (
    "selling {one}, write me",
    "{many} for sale, good price",
    "I sell {many}, cheap and fast",
    "buy my {many} today",
    "{one} for sale, contact me",
    "get {many} from me, best price in town",
    "who wants to buy {one}? 20 only",
    "I am selling {many} this week",
    "offer: {one}, like new, 50",
    "order {many} here, we deliver",
)
SELL_THIS = (
    "for sale, write me for the price",
    "selling this, contact me",
    "good price, buy it today",
    "this is for sale, 30 only",
    "who wants to buy this? write me",
    "I sell this, like new, cheap",
    "buy this from me, we deliver",
    "offer: 50 and it is yours",
)
DENY = (
    "no {many} here",
    "there are no {many} in this post",
    "I never saw {many} in my life",
    "we do not have {many}",
    "nothing about {many} today",
    "this is not about {many}",
    "sorry, no {many}",
    "without {many} it was a good day",
    "you will not find {many} here",
    "not {one}, just a joke",
)
PLAIN = (
    "what a nice day",
    "good morning everyone",
    "I am so tired today",
    "see you at home tonight",
    "happy birthday to my best friend",
    "this is not for sale, I just love it",
    "we had a good time at the beach",
    "who wants to talk?",
    "look at this",
    "I love this town",
    "thank you all, it was a great year",
    "sunday with my brother",
    "nothing new here",
    "wait for it",
    "not my best picture",
    "please share this with your friends",
    "I want to sleep",
    "the price of everything is so high",
    "never again",
    "you will love this story",
)
# Sentences that only held-out posts use; made of words of the others.
UNSEEN = {
    "mention": ("I had {one} at home all year", "your {many} make my day", "saw {many} at the beach today"),
    "sell": ("contact me to buy {many}, cheap", "selling my {many} today, 20 only"),
    "sell_this": ("like new and cheap, contact me to buy it", "write me, this is for sale"),
    "deny": ("today I saw no {many}", "you will not find {one} in this post"),
    "plain": ("I love my friends", "what a year, thank you"),
}
_TRAINED = {"mention": MENTION, "sell": SELL, "sell_this": SELL_THIS, "deny": DENY, "plain": PLAIN}


@dataclass(frozen=True, slots=True)
class Saying:
    """A text, and what it says. `sells_shown`: it sells whatever the post shows."""

    text: str
    mentioned: frozenset[str] = frozenset()
    named: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    sold: frozenset[str] = frozenset()
    sells_shown: bool = False

    def truth(self, shown: frozenset[str]) -> Truth:
        """Of a post with this text whose pictures show these things."""
        things = frozenset(self.sold - GROUPS.keys()) | (shown if self.sells_shown else frozenset())
        return Truth(
            shown=shown,
            mentioned=self.mentioned,
            named=self.named,
            denied=self.denied,
            offered=things,
            offered_groups=frozenset(self.sold & GROUPS.keys()),
        )


SILENT = Saying("")


def say(random: Random, shown: list[Thing], *, training: bool = True, unseen: bool = False) -> Saying:
    """A text of one to three sentences for a post that shows `shown`. unseen: every second sentence is held out."""
    around = list(shown)  # what stands in the post so far; nothing may make a held-out pair with it
    mentioned: set[str] = set()
    named: set[str] = set()
    denied: set[str] = set()
    sold: set[str] = set()

    def subject(*, fresh: bool) -> str:
        if shown and not fresh and random.random() < 0.5:
            return random.choice(shown).name
        if random.random() < 0.08:
            return random.choice(list(GROUPS))
        while True:
            thing = random.choice(THINGS)
            if allowed(around, thing, training=training) and not (fresh and thing in around):
                around.append(thing)
                return thing.name

    plot = random.choices(
        (("plain",), ("mention",), ("mention", "mention"), ("sell",), ("sell_this",), ("deny",), ("deny", "mention")),
        weights=(8, 26, 10, 18, 18, 12, 8),
    )[0]
    kinds = list(plot) + ["plain"] * random.choices((0, 1, 2), weights=(6, 4, 1))[0]
    random.shuffle(kinds)
    sentences = []
    for kind in kinds:
        bank = UNSEEN[kind] if unseen and random.random() < 0.5 else _TRAINED[kind]
        about = subject(fresh=kind == "deny" and random.random() < 0.5) if kind in ("mention", "sell", "deny") else ""
        if kind == "deny" and about in mentioned | named:
            continue
        if kind in ("mention", "sell") and about in denied:
            continue
        sentences.append(_spoken(random.choice(bank), about))
        if kind == "deny":
            denied.add(about)
        elif about:
            (named if about in GROUPS else mentioned).add(about)
            if kind == "sell":
                sold.add(about)
    return Saying(
        text=_joined(random, sentences or ["hello"]),
        mentioned=frozenset(mentioned),
        named=frozenset(named),
        denied=frozenset(denied),
        sold=frozenset(sold),
        sells_shown="sell_this" in kinds,
    )


def _spoken(template: str, about: str) -> str:
    thing = next((thing for thing in THINGS if thing.name == about), None)
    return template.format(one=thing.one if thing else about, many=thing.many if thing else about)


def _joined(random: Random, sentences: list[str]) -> str:
    end = random.choice((". ", "! ", "\n", " ... ", ", "))
    text = end.join(sentence.rstrip("!?.") if end == ", " else sentence for sentence in sentences)
    change: Callable[[str], str] = random.choice((str, str, str.lower, str.upper, str.capitalize))
    text = change(text)
    if random.random() < 0.15:  # a word that nobody knows: most words of real posts are such
        words = text.split(" ")
        letters = "abcdefghijklmnopqrstuvwxyz"
        unknown = "".join(random.choice(letters) for _ in range(random.randint(2, 7)))
        words.insert(random.randint(0, len(words)), random.choice(("@", "#", "", "")) + unknown)
        text = " ".join(words)
    return text + random.choice(("", "", "", ".", "!", " :)", "!!!"))
