"""What an author may not have meant in the prose of a policy: a question that is inverted, two in one, or not there
yet; characters that nobody sees; texts that contradict each other.

The rules on wording know English. Other languages pass them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from moderation.policies.loading import Read
from moderation.policies.mistakes import Kind, Location, Mistake, located, named, place
from moderation.policies.schema import Policy

Found = tuple[Location, str]

THIS = r"(this|the|that|an?|its|any)"
THING = r"(post|text|content|message|image|picture|photo|comment|author|user|it)s?"
VERB = r"(does|do|did|is|are|was|has|have|can|could|will|would|should|may|might)"
TODO = re.compile(r"\b(TODO|TBD|FIXME|TBC|TKTK?)\b|\b([Ll]orem ipsum|[Tt]o be (done|written|decided))\b")
PLACEHOLDER = re.compile(
    r"[!-/:-@\[-`{-~\s…]*|[<\[{]{1,2}[^<>\[\]{}]*[>\]}]{1,2}|(?i:(n/?a|none|null|empty|test(ing)?|foo|bar|examples?|"
    r"placeholder|title|(your )?(question|text|title)( here)?|terms?|x+|etc|misc|others?|something|anything|asdf)\W*)"
)
NEGATED = re.compile(
    rf"(?i)^{VERB}n['’]?t\b|^{VERB} ({THIS} )?({THING} )?(not|never)\b|\bor not\W*$|^{VERB} ({THIS} )?{THING} "
    r"(avoid|refrain|contain no|stay within|remain within|free (of|from)|devoid of|in line with|"
    r"(comply|conform|adhere) (with|to)|respect (others|everyone|people)|"
    r"(follow|respect|obey|meet|within) (the|our|all|these) ([a-z]+ )?"
    r"(rules?|guidelines?|polic(y|ies)|laws?|standards?|terms))\b"
)
HARMLESS = re.compile(
    rf"(?i)^(?!.*\bonly\b){VERB} (({THIS} )?{THING}|{THIS}) (be |look |seem )?"
    r"((complete|entire|real|general|perfect|ful)ly )?"
    r"((safe|harmless|acceptable|appropriate|allowed|fine|ok|okay|clean|compliant|legitimate|legal|lawful|friendly|"
    r"suitable|benign|permitted|innocent|unproblematic|kept|published|approved|accepted|sfw|inoffensive|non-?violent|"
    r"(family|kid|child)[ -]friendly|brand[ -]safe)(\W*$|,? (and|or|for|to|in|on|"
    r"under|with|by|according|everywhere|enough)\b)|"
    r"pass (the|our|all|review|moderation)\b|stay (up|online|visible)\b|good (for|enough)\b|"
    rf"an? (good|safe|harmless|legitimate|acceptable|normal) {THING}\b)|"
    r"^(may|can|could|should) (we|i|you) (publish|keep|allow|approve|show|leave)\b"
)
OPEN = re.compile(
    rf"(?i)^(what|which|who|whom|whose|why|how|when|where)\b(?!.*, {VERB}\b)|"
    r"\b(on a scale|(from|between) (0|1|one|zero) (to|and) |out of (5|10|100|ten)\b)|"
    r"^(rate|score|list|explain|describe|classify|summari[sz]e|answer|reply|respond|return|"
    r"please|decide|determine|say|tell|check|flag|detect|find|remove|delete|block)\b"
)
TWO = re.compile(
    rf"(?i)\b(and|or|but)\b,? (also )?{VERB} ((this|the) {THING}|this|it|they|he|she|there|anyone|someone)\b|"
    r"\band also\b"
)
BEGINS = re.compile(rf"(?i)^(posts? (that|which|who)|(the|this|that|an?) {THING})\b")
TOKENS = re.compile(
    r"<\|[^|<>]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(start|end)_of_turn>|<image>|</?(user|assistant|system)>"
)
MARKUP = re.compile(
    r"&(nbsp|amp|lt|gt|quot|apos|#\d+);|</?(b|i|p|br|em|strong|span|div|ul|li|a)( [^<>]*)?/?>|(?<!\w)\*\*\w[^*]*\*\*"
)
MOJIBAKE = re.compile("Ã[\x80-\xbf©¤¶¼Ÿ–œ]|â€.|Â[°£§«»]|\ufffd")
# A whole text in quotes, of a keyboard or of a word processor.
QUOTED = re.compile(r"""[“„‘«‹‚”][^“”„«»‘’‹›]*[”“’»›]|"[^"]*"|'[^']*'""")
ASK = "ask for the violation, as in `Does this post threaten someone?`"
QUESTION_MARKS = "?？؟;՞፧꘏⁇"
# Marks of direction, joiners, blanks without width, blank letters, tags, private use. YAML refuses control characters.
UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\u2800"
    "\ue000-\uf8ff\U000e0000-\U000e007f]"
)
WRITTEN = "\u200c\u200d\u200e\u200f\u061c"  # in Persian, Arabic, Hebrew, languages of India, and in emoji


def warnings(read: Read) -> Iterator[Mistake]:
    """What its author may not have meant, in the order of the rules."""
    path, node, policy = read.document.path, read.document.node, read.policy
    is_cut = False
    for location, text in _texts(policy):
        for problem in (*_of_signs(text), *(() if location[0] == "examples" else _of_own(text))):
            yield located(path, node, location, problem, kind=Kind.WARNING)
        _, at = place(node, location)
        if at is not None and (lost := read.document.comment_behind(at)):
            is_cut |= location == ("question",)
            problem = f"# begins a comment, so the model does not read {lost!r}: put the text in quotes, or the comment"
            line = at.end_mark.line + 1
            yield Mistake(Kind.WARNING, path, line, f"{named(location)}: {problem} in a line of its own")
    for location, problem in (*(() if is_cut else _of_question(policy.question)), *_of_lists(policy)):
        yield located(path, node, location, problem, kind=Kind.WARNING)


def _texts(policy: Policy) -> Iterator[tuple[Location, str]]:
    """Every text that the model reads."""
    yield ("title",), policy.title
    yield ("question",), policy.question
    for word, meaning in policy.definitions.items():
        yield ("definitions", word), word
        yield ("definitions", word), meaning
    for key, clauses in (("violates", policy.violates), ("allows", policy.allows)):
        for place_, clause in enumerate(clauses):
            yield (key, place_, "text"), clause.text
    for place_, example in enumerate(policy.examples):
        yield ("examples", place_, "text"), example.text


def _of_signs(text: str) -> Iterator[str]:
    """Of every text, that of a post among them."""
    if sign := unseen(text):
        name = unicodedata.name(sign, "without a name").lower()
        yield f"it has a character that nobody sees (U+{ord(sign):04X}, {name}): delete it, or type the text again"
    if lost := MOJIBAKE.search(text):
        yield f"{lost[0]!r} is what is left of a character that was saved in another encoding: type it again"
    if token := TOKENS.search(text):
        yield f"{token[0]!r} is a token of models' templates, and would end the question: say it in other words"


def _of_own(text: str) -> Iterator[str]:
    """Of the author's own words. A post may mix letters, or be markup."""
    if mixed := next((word for word in re.findall(r"[^\W\d_]+", text) if _is_mixed(word)), ""):
        yield f"{mixed!r} mixes letters of two scripts that look alike: type the word again"
    if PLACEHOLDER.fullmatch(text) or TODO.search(text):
        yield f"{_short(text)} is no text yet: write it"
    if markup := MARKUP.search(text):
        yield f"{markup[0]!r} is markup, which the model reads as it stands: write plain text"
    if QUOTED.fullmatch(text):
        yield "the quotes around it are part of the text: delete them; YAML's own quotes are \" and '"
    if "\n" in text.strip():
        yield "the model reads each line of it as a line of its own: write it in one line, or with > in place of |"


def _of_question(question: str) -> Iterator[Found]:
    at: Location = ("question",)
    if PLACEHOLDER.fullmatch(question) or TODO.search(question):
        return
    unquoted = re.sub(r"[\"“'‘][^\"”’']{0,80}[\"”’']", "", question.strip())
    marks = sum(unquoted.count(mark) for mark in QUESTION_MARKS)
    is_latin = re.search(r"[A-Za-z]", question) is not None
    if OPEN.search(question):
        yield at, f"the model answers Yes or No, and nothing else: {ASK}"
    elif is_latin and (not marks or len(question.split()) < 2):
        yield at, f"this is no question: {ASK}"
    if HARMLESS.search(question) or NEGATED.search(question):
        yield at, f"Yes must mean that the post violates the policy: {ASK}, and without `not`"
    if marks > 1 or TWO.search(unquoted):
        yield at, "it asks two things, and no threshold fits both: ask one, or write two policies"


def _of_lists(policy: Policy) -> Iterator[Found]:
    seen: dict[str, tuple[str, int]] = {}
    for key, clauses in (("violates", policy.violates), ("allows", policy.allows)):
        for place_, clause in enumerate(clauses):
            at: Location = (key, place_, "text")
            if BEGINS.search(clause.text) and key == "violates":
                yield at, "the model reads `a post that` in front of it: begin with the verb, as in `mentions a lake`"
            if first := seen.get(plain(clause.text)):
                same = "says the same as" if first[0] == key else "contradicts, with the same words,"
                yield at, f"it {same} {first[0]}, clause {first[1] + 1}: delete one"
            seen.setdefault(plain(clause.text), (key, place_))
    labels: dict[str, tuple[str, int]] = {}
    for place_, example in enumerate(policy.examples):
        if earlier := labels.get(plain(example.text)):
            label, first_place = earlier
            problem = "twice" if label == example.label else f"with two labels, {label} and {example.label}"
            yield (
                ("examples", place_, "text"),
                f"example {first_place + 1} has the same text, so it stands there {problem}: delete one",
            )
        labels.setdefault(plain(example.text), (example.label, place_))
    yield from _of_definitions(policy)


def _of_definitions(policy: Policy) -> Iterator[Found]:
    clauses = [clause.text for clause in (*policy.violates, *policy.allows)]
    rest = [policy.title, policy.question, *clauses, *(example.text for example in policy.examples)]
    words: dict[str, str] = {}
    for word, meaning in policy.definitions.items():
        at: Location = ("definitions", word)
        others = [text for other, text in policy.definitions.items() if other != word]
        if not any(_stem(word) in plain(text) for text in (*rest, *others)):
            yield at, "no question, clause or example has this word: use it, or delete the definition"
        if earlier := words.get(plain(word)):
            yield at, f"{earlier} is defined already: delete one"
        if plain(meaning) == plain(word):
            yield at, "the meaning only repeats the word: write what it means"
        words.setdefault(plain(word), word)


def _stem(word: str) -> str:
    """The beginning that a word's other forms have too: knif for knife and knives."""
    known = plain(word)
    return known[: max(3, len(known) - 2)] if len(known) > 4 else known


def plain(text: str) -> str:
    """A text as texts are compared: by letters and digits alone."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def unseen(text: str) -> str:
    """The first character of a text that nobody sees and no script needs there; empty if there is none."""
    return next((match[0] for match in UNSEEN.finditer(text) if not _is_needed(text, match.start())), "")


def _is_needed(text: str, place_: int) -> bool:
    if text[place_] >= "\U000e0000":
        return "\U0001f3f4" in text[:place_]  # the flag of a part of a country
    around = text[max(0, place_ - 1) : place_] + text[place_ + 1 : place_ + 2]
    names = [unicodedata.name(sign, "") for sign in around]
    return text[place_] in WRITTEN and any(not sign.isascii() for sign in around) and "LATIN" not in " ".join(names)


def _is_mixed(word: str) -> bool:
    scripts = {unicodedata.name(letter, "").partition(" ")[0] for letter in word}
    return "LATIN" in scripts and bool(scripts & {"CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE"})


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
