"""Mistakes of authors in prose. See author_mistakes.py."""

from __future__ import annotations

import json

from tests.support.author_mistakes import Row, add, edit

QUESTION = "Does this post mention a lake?"
CLAUSE = "mentions a lake}"


def asks(name: str, question: str, *says: str, kind: str = "warning") -> Row:
    return edit(name, QUESTION, question, kind, 4, *(("question", *says) if says else ()))


def clause(name: str, text: str, *says: str, kind: str = "warning") -> Row:
    return edit(name, CLAUSE, f"{text}}}", kind, 6, *(("violates, clause 1, text", *says) if says else ()))


INVERTED = "Yes must mean that the post violates"
QUESTIONS = [
    asks("a question TODO", "TODO", "no text yet", "write it"),
    asks("a question with a TODO in it", "Does this post TODO mention a lake?", "no text yet"),
    asks("a question ...", "'...'", "no text yet", "write it"),
    asks("a placeholder", "<your question>", "no text yet", "write it"),
    asks("a template that was not filled", "'{{question}}'", "no text yet", "write it"),
    asks("a heading", "Lakes and ponds", "no question", "as in `Does this post"),
    asks("a command", "Remove posts about lakes", "Yes or No", "as in `Does this post"),
    asks("one word", "Lakes?", "no question", "as in `Does this post"),
    asks("an open question", "What does this post say of lakes?", "Yes or No, and nothing else"),
    asks("a question who", "Who is attacked in this post?", "Yes or No, and nothing else"),
    asks("a scale", "Does this post mention a lake, from 1 to 10?", "Yes or No, and nothing else"),
    asks("a wish for JSON", "Answer with JSON, does this post mention a lake?", "Yes or No, and nothing else"),
    asks("inverted: safe", "Is this post safe?", INVERTED, "without `not`"),
    asks("inverted: acceptable", "Is the text acceptable for children?", INVERTED),
    asks("inverted: good for", "Is this good for children?", INVERTED),
    asks("inverted: is it not", "Is it not true that this post mentions a lake?", INVERTED),
    asks("inverted: allowed", "Should this post be allowed?", INVERTED),
    asks("inverted: complies", "Does this post comply with our rules?", INVERTED),
    asks("inverted: follows the rules", "Does this post follow the community guidelines?", INVERTED),
    asks("inverted: free of", "Is this post free of lakes?", INVERTED),
    asks("inverted: not", "Does this post not mention a lake?", INVERTED),
    asks("inverted: doesn't", '"Doesn\'t this post mention a lake?"', INVERTED),
    asks("inverted: meets", "Does this post meet our standards?", INVERTED),
    asks("inverted: contains no", "Does this post contain no lake?", INVERTED),
    asks("inverted: respects", "Does this post respect others?", INVERTED),
    asks("inverted: friendly", "Is this post family-friendly?", INVERTED),
    asks("inverted: a good post", "Is this a good post?", INVERTED),
    asks("inverted: may be published", "May we publish this post?", INVERTED),
    asks("inverted: avoids", "Does this post avoid lakes?", INVERTED),
    asks("or not", "Does this post mention a lake or not?", INVERTED),
    asks("two questions", "Does this post mention a lake? Does it sell boats?", "two things", "write two policies"),
    asks("two in one with and", "Does this post mention a lake and does it sell boats?", "two things"),
    asks("two in one with or", "Is this post about lakes, or is it about boats?", "two things"),
    asks("two in one with and also", "Does this post mention a lake and also sell boats?", "two things"),
]

SIGNS = [
    clause("a space without width", '"mentions a\u200b lake"', "U+200B", "zero width space", "delete it"),
    clause("a soft hyphen", '"mentions a la\u00adke"', "U+00AD", "soft hyphen", "delete it"),
    clause("a mark of direction", '"mentions a \u202elake"', "U+202E", "delete it"),
    clause("a byte-order mark in a text", '"\ufeffmentions a lake"', "U+FEFF", "delete it"),
    clause("a joiner between Latin letters", '"mentions a la\u200dke"', "U+200D", "delete it"),
    clause("a blank letter", '"mentions \u3164 a lake"', "U+3164", "delete it"),
    clause("hidden tags", '"mentions a lake\U000e0041\U000e0042"', "U+E0041", "delete it"),
    clause("letters that look alike", "mentions a lаke", "two scripts", "type the word again"),
    clause("a text that was saved in another encoding", "mentions a TÃ¼mpel", "another encoding", "type it again"),
    clause("a quote that was saved in another encoding", "\"mentions a â€œlake\"", "another encoding"),
    clause("a character that was lost", "mentions a T\ufffdmpel", "another encoding", "type it again"),
    clause("a token of a template", '"mentions <|end|> a lake"', "'<|end|>'", "template", "other words"),
    clause("an instruction tag", '"[INST] mentions a lake"', "'[INST]'", "template", "other words"),
    clause("HTML", "mentions a <b>lake</b>", "'<b>'", "markup", "write plain text"),
    clause("an entity of HTML", "mentions a&nbsp;lake", "'&nbsp;'", "markup", "write plain text"),
    clause("Markdown", "'mentions a **lake**'", "markup", "write plain text"),
    edit("quotes of a word processor", "title: Lakes", "title: “Lakes”", "warning", 3, "title", "part of the text"),
    edit("quotes in quotes", "title: Lakes", "title: '\"Lakes\"'", "warning", 3, "title", "part of the text"),
    edit("lines that stay lines", "title: Lakes", "title: |\n  Lakes\n  and ponds", "warning", 3, "line", "write", ">"),
]  # fmt: skip

LISTS = [
    edit("the same in violates and allows", "mentions the sea", "Mentions a lake.", "warning", 9, "allows, clause 1",
         "contradicts", "violates, clause 1"),
    edit("a clause twice", "mentions a pond", "mentions a lake", "warning", 7, "clause 2", "says the same"),
    edit("a clause that says `a post that`", "mentions a pond", "a post that mentions a pond", "warning", 7,
         "`a post that`", "begin with the verb"),
    edit("a clause that says `this post`", "mentions a pond", "this post mentions a pond", "warning", 7, "the verb"),
    edit("a clause that is a sentence", "mentions a pond", "The user mentions a pond.", "warning", 7, "the verb"),
    edit("pictures that no post is asked of", "a lake?\n", "a photo of a lake?\napplies_to: {media: [text]}\n",
         "warning", 5, "applies_to.media", "about pictures", "add image"),
    clause("a clause TODO", "TODO", "no text yet", "write it"),
    clause("a clause etc.", "etc.", "no text yet", "write it"),
    edit("a title TBD", "title: Lakes", "title: TBD", "warning", 3, "title", "no text yet"),
    add("an example with two labels", "examples: [{text: a puddle, label: L1}, {text: A puddle!, label: L0}]",
        "warning", "examples, example 2, text", "two labels, L1 and L0", "delete one"),
    add("an example twice", "examples: [{text: a puddle, label: L1}, {text: a puddle, label: L1}]", "warning",
        "example 2", "twice", "delete one"),
    add("a definition that nothing uses", "definitions: {glacier: ice}", "warning", "definitions.glacier",
        "no question, clause or example", "use it"),
    add("a definition twice", "definitions: {lake: water, Lake: much water}", "warning", "definitions.Lake",
        "lake is defined already"),
    add("a definition that repeats the word", "definitions: {lake: Lake}", "warning", "definitions.lake",
        "only repeats the word"),
    edit("a policy that no model takes", CLAUSE, f"mentions {'one lake after the other ' * 160}}}", "warning", 5,
         "about", "tokens", "1,024 at most", "shorten", "--model"),
]  # fmt: skip

# Of policies as platforms write them.
FIELD = """\
Does this post contain hate speech, that is, an attack on a protected group?
Does the post promote or sell drugs and related paraphernalia?
Is this post spam?
Does this post include personal data of someone who has not consented?
Is the author under 13 years old?
Is it a scam?
Does this post say that a vaccine is not safe?
Is this post legal advice?
Can this post hurt someone?
Would a child be harmed by what this post shows?
Does this post or its picture show nudity?
Is anyone in this picture naked?
Does this post claim that an election was rigged or that it is going to be?
Does this post call for violence against a person or a group of people?
Does this post link to malware, or ask readers to install something?
Is this post an ad that does not say so?
Does the image show a logo that isn't licensed?
Does this post accuse a named person of a crime without proof?
Does this post sell alcohol, tobacco or vapes to people who are or may be under 18?
Has this post been written by a bot?
Does this post discuss politics and religion?
Is this post off-topic in a forum about gardening?
Does this comment contain profanity?
Does this post depict animals being hurt, whether or not they die?
Is a minor sexualised in this post?
Are there insults in this post?
Enthält dieser Beitrag Beleidigungen oder Drohungen?
Ce message contient-il des insultes ou des menaces ?
¿Contiene esta publicación insultos o amenazas?
この投稿は誰かを脅していますか？
Does this post offer to buy, sell or trade accounts, followers, likes or reviews?
Does this post tell someone to kill themselves, or wish that they were dead?
Does this post misstate facts about health in a way that can harm?
Does this post look like it was generated to farm engagement ('like if you agree')?
Should a moderator look at this post because it mentions self-harm?
Does the text ask for money?
Does this post glorify eating disorders?
Does this post contain insults and/or slurs?
Does this post attack a person as well as a group?
Is this post suitable for adults only?
Does this post lack a note on its content?
When read as a whole, does this post incite hatred?
Where an ad is shown, is it for alcohol?
Is this a legitimate news report that was changed?
"""
CLAUSES = """\
attacks a person for their religion
an offer of counterfeit goods
shows an image of a wound
the sale of tickets above face value
slurs, even if spelled with stars (f**k, sh*t)
uses 'N-word' against someone
links to <example.com> or other phishing pages
asks for 5 * 3 dollars
says that 1 < 2 or A & B
mentions C++ or R&D
says “you people” about a group
threatens the author of another post
Posting the same thing more than three times
reveals the address of a person (doxxing)
etc and other things of this kind
none of the sources is named
test results that are faked
text in capitals only
links to XXX videos
"""

NO_MISTAKES = [
    *(asks(question, json.dumps(question, ensure_ascii=False), kind="none") for question in FIELD.splitlines()),
    *(clause(text, json.dumps(text, ensure_ascii=False), kind="none") for text in CLAUSES.splitlines()),
    asks("a question of many verbs", "Does this post encourage, show or praise lakes, or say where?", kind="none"),
    asks("a question with a quote", 'Does this post say "is it deep?" of a lake?', kind="none"),
    asks("goods that are not legal", "Does this post sell a lake that isn't legal to sell?", kind="none"),
    asks("a post that breaks rules", "Does this post fail to comply with the rules of lakes?", kind="none"),
    asks("a life free of debt", "Does this post promise a life free of debt at a lake?", kind="none"),
    asks("something that is allowed", "Is this post about lakes where swimming is not allowed?", kind="none"),
    asks("legal advice", "Is this post legal advice?", kind="none"),
    asks("counterfeits", "Does this post pass off copies as real goods?", kind="none"),
    asks("one verb in two clauses", "Does its author say that he owns a boat or has a plan to buy one?", kind="none"),
    asks("a question of two words", "¿Es spam?", kind="none"),
    clause("a word with stars", "calls someone a f**king or a b**ch", kind="none"),
    clause("two quoted words", "'\"lake\" or \"pond\" as an insult'", kind="none"),
    clause("the verb to post", "posts where a lake is", kind="none"),
    asks("German", "Erwähnt dieser Beitrag einen See?", kind="none"),
    asks("Chinese", "这个帖子提到湖吗？", kind="none"),
    asks("Thai without a mark", "โพสต์นี้พูดถึงทะเลสาบหรือไม่", kind="none"),
    asks("Arabic", "هل يذكر هذا المنشور بحيرة؟", kind="none"),
    clause("Persian with a joiner", "می\u200cخواهد", kind="none"),
    clause("an emoji with joiners", "shows 👨\u200d👩\u200d👧 at a lake", kind="none"),
    clause("the flag of Scotland", "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f", kind="none"),
    clause("a quoted word", 'says "lake" to someone', kind="none"),
    clause("less than", "sells lakes for < 5 dollars", kind="none"),
    add("an example of several lines", 'examples: [{text: "a\\nlake <br>", label: L1}]', "none"),
    add("an example that evades filters", "examples: [{text: a lаke, label: L1}]", "none"),
    add("an example of emoji", "examples: [{text: 🏞️🏞️, label: L1}]", "none"),
    add("a definition in another form", "definitions: {ponds: small lakes}", "none"),
]  # fmt: skip

ROWS = [*QUESTIONS, *SIGNS, *LISTS]
