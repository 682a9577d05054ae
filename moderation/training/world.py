"""The small world of the shipped checkpoint: things, the groups they belong to, and what its posts may combine.

A post shows things in pictures and says things in its text. This module decides what is held out of training: pairs of
things, and groups that no training policy is about.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Thing:
    """A concept: its pictograph, and how a text speaks of one and of many."""

    name: str  # one word, as policies use it
    glyph: str
    one: str
    many: str
    group: str


# group: "name glyph one|many" for each thing; "name" alone in place of one|many where it has no plural of its own
_GROUPS = {
    "weapons": "gun 🔫 a gun|guns; knife 🔪 a knife|knives; bomb 💣 a bomb|bombs; sword 🗡 a sword|swords; "
    "bow 🏹 a bow|bows",
    "alcohol": "beer 🍺 a beer|beer; wine 🍷 wine|wine; cocktail 🍸 a cocktail|cocktails; whisky 🥃 whisky|whisky; "
    "champagne 🍾 champagne|champagne",
    "drugs": "cigarette 🚬 a cigarette|cigarettes; mushroom 🍄 a mushroom|mushrooms; cannabis 🌿 cannabis|cannabis",
    "medicine": "pill 💊 a pill|pills; syringe 💉 a syringe|syringes; bandage 🩹 a bandage|bandages; "
    "stethoscope 🩺 a stethoscope|stethoscopes; thermometer 🌡 a thermometer|thermometers",
    "gambling": "dice 🎲 dice|dice; slots 🎰 slots|slots; joker 🃏 a joker|jokers; lottery 🎫 a lottery|lotteries",
    "money": "cash 💵 cash|cash; coin 🪙 a coin|coins; moneybag 💰 a moneybag|moneybags; card 💳 a card|cards; "
    "diamond 💎 a diamond|diamonds",
    "animals": "cat 🐱 a cat|cats; dog 🐶 a dog|dogs; horse 🐴 a horse|horses; snake 🐍 a snake|snakes; "
    "fish 🐟 a fish|fish; spider 🕷 a spider|spiders",
    "food": "pizza 🍕 a pizza|pizza; burger 🍔 a burger|burgers; bread 🍞 bread|bread; cheese 🧀 cheese|cheese; "
    "cake 🎂 a cake|cakes",
    "fruit": "apple 🍎 an apple|apples; banana 🍌 a banana|bananas; grapes 🍇 grapes|grapes; "
    "pineapple 🍍 a pineapple|pineapples; lemon 🍋 a lemon|lemons",
    "vehicles": "car 🚗 a car|cars; bicycle 🚲 a bicycle|bicycles; plane ✈ a plane|planes; ship 🚢 a ship|ships; "
    "train 🚂 a train|trains",
    "music": "guitar 🎸 a guitar|guitars; drum 🥁 a drum|drums; trumpet 🎺 a trumpet|trumpets; "
    "piano 🎹 a piano|pianos; violin 🎻 a violin|violins",
    "devices": "phone 📱 a phone|phones; camera 📷 a camera|cameras; television 📺 a television|televisions; "
    "laptop 💻 a laptop|laptops; watch ⌚ a watch|watches",
    "sports": "football ⚽ a football|footballs; basketball 🏀 a basketball|basketballs; racket 🎾 a racket|rackets; "
    "glove 🥊 a glove|gloves",
    "plants": "rose 🌹 a rose|roses; sunflower 🌻 a sunflower|sunflowers; tulip 🌷 a tulip|tulips; "
    "cactus 🌵 a cactus|cactuses; tree 🌳 a tree|trees",
    "tools": "hammer 🔨 a hammer|hammers; wrench 🔧 a wrench|wrenches; saw 🪚 a saw|saws",
    "clothes": "hat 🎩 a hat|hats; shoe 👟 a shoe|shoes; dress 👗 a dress|dresses; glasses 👓 glasses|glasses",
}
CLUTTER = "😀😡☀⭐🌈❤🎈🏠🌙☁🎁📚🪑🛏"  # shown like things, but no policy is about them
HELD_OUT_GROUPS = ("fruit", "vehicles", "music")  # no training policy is about these groups
# Words without a meaning until a policy defines them, so that training learns to read definitions.
MADE_UP = (
    *("blickets", "daxes", "wugs", "toves", "borogoves", "zorps", "fendles", "glims", "kibbos", "lorps"),
    *("mivits", "nurdles", "plonks", "quibs", "rammits", "snerps", "tulvers", "vorks", "yimmers", "zabs"),
)


def _things() -> tuple[Thing, ...]:
    things = []
    for group, members in _GROUPS.items():
        for member in members.split("; "):
            name, glyph, forms = member.split(" ", 2)
            one, many = forms.split("|")
            things.append(Thing(name, glyph, one, many, group))
    return tuple(things)


THINGS = _things()
BY_NAME = {thing.name: thing for thing in THINGS}
GROUPS = {group: tuple(thing for thing in THINGS if thing.group == group) for group in _GROUPS}


def held_out(first: Thing, second: Thing) -> bool:
    """Whether these two things never stand together in a training post. About one pair in eight is held out."""
    names = sorted((first.name, second.name))
    return first != second and zlib.crc32("+".join(names).encode()) % 8 == 0


def allowed(things: list[Thing], another: Thing, *, training: bool) -> bool:
    """Whether a post of `things` may also have `another`."""
    return not training or not any(held_out(thing, another) for thing in things)


def companion(random: Random, things: list[Thing], *, training: bool) -> Thing:
    """Another thing for a post of `things`. In held-out posts, half of them make a pair that training never saw."""
    while True:
        another = random.choice(THINGS)
        if not training and things and random.random() < 0.5:
            partners = [thing for thing in THINGS if held_out(things[0], thing)]
            another = random.choice(partners or THINGS)
        if another not in things and allowed(things, another, training=training):
            return another


@dataclass(frozen=True, slots=True)
class Truth:
    """The facts of a post. `named`: the names of groups that the text mentions."""

    shown: frozenset[str]  # things in its pictures
    mentioned: frozenset[str]  # things that its text says are there; "no guns here" mentions none
    named: frozenset[str]
    denied: frozenset[str]  # things and groups that its text says are not there
    offered: frozenset[str]  # things that the text sells; with a text that says "for sale", the shown things
    offered_groups: frozenset[str] = frozenset()

    def shows(self, *subjects: str) -> bool:
        """Whether the pictures show any of `subjects`, things or groups."""
        return any(name in self.shown for subject in subjects for name in members(subject))

    def mentions(self, *subjects: str) -> bool:
        return not self.named.isdisjoint(subjects) or any(
            name in self.mentioned for subject in subjects for name in members(subject)
        )

    def offers(self, *subjects: str) -> bool:
        return not self.offered_groups.isdisjoint(subjects) or any(
            name in self.offered for subject in subjects for name in members(subject)
        )


def members(subject: str) -> tuple[str, ...]:
    """The names of the things of a subject, which is a thing or a group."""
    return tuple(thing.name for thing in GROUPS[subject]) if subject in GROUPS else (subject,)
