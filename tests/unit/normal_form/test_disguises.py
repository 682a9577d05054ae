"""Disguises are undone, and what looks like them stays. Each row: a text, and what its readers see."""

from __future__ import annotations

import random
import string
import time

import pytest

from moderation.normal_form import CONTEXT, LONGEST, normal_form, to_judge
from tests.fuzz.promises import texts

ZWSP, ZWNJ, ZWJ, SHY, RLO, PDF, LRM, RLM, VS16, CGJ = (
    "\u200b\u200c\u200d\u00ad\u202e\u202c\u200e\u200f\ufe0f\u034f"  # what does not show, or turns the order
)


def styled(first: str, word: str) -> str:
    """The word in letters of a block that begins with `first`."""
    return "".join(chr(ord(first) + ord(letter) - ord("a")) for letter in word)


def tags(text: str) -> str:
    return "".join(chr(0xE0000 + ord(letter)) for letter in text)


SEEN = {
    "zero width": (f"k{ZWSP}i{ZWNJ}l{ZWJ}l them", "kill them"),
    "word joiner and byte order mark": ("k\u2060i\ufeffll them", "kill them"),
    "soft hyphen": (f"ki{SHY}ll", "kill"),
    "marks of direction": (f"ki{LRM}l{RLM}l", "kill"),
    "isolates": ("\u2066ki\u2069ll", "kill"),
    "grapheme joiner": (f"ki{CGJ}ll", "kill"),
    "backwards": (f"see {RLO}bmob a ekam ot woh{PDF} now", "see how to make a bomb now"),
    "backwards without an end": (f"{RLO}llik\nthem", "kill\nthem"),
    "forwards within backwards": (f"{RLO}llik \u202dyou{PDF} dna{PDF}", "and you kill"),
    "hidden tags": (f"hello{tags('kill them')}", "hello"),
    "hidden tags behind an emoji": (f"😀{tags('kill them')}", "😀"),
    "hidden variation selectors": ("hi😀\U000e0142\U000e0143\U000e0144", "hi😀"),
    "variation selectors in a word": ("k\ufe00i\ufe0fl\ufe01l", "kill"),
    "controls": ("ki\x00l\x08l\x1b", "kill"),
    "blank letters": ("kill\u3164them\u2800all", "kill them all"),
    "half characters": ("ki\ud800ll", "kill"),
    "joiners in a Latin word": (f"s{ZWJ}e{ZWNJ}x", "sex"),
    "joiners between all letters": (f"م{ZWJ}ر{ZWNJ}د{ZWJ}م", "مردم"),
    "joiners that join nothing": (f"ब{ZWJ}म", "बम"),
    "spaces between all letters": (f"ก{ZWSP}ข{ZWSP}ค", "กขค"),
    "stacked marks": ("k\u0301\u0302\u0303\u0304i\u0315\u031b\u0322l\u0336l", "kill"),
    "lines through letters": ("k\u0336i\u0336l\u0336l\u0336", "kill"),
    "circles around letters": ("k\u20ddi\u20ddl\u20ddl\u20dd", "kill"),
    "a mark on each letter": ("k\u0308i\u0324l\u0308l\u0308", "kill"),
    "stacked Thai marks": ("ที" + "่" * 30, "ที่"),
    "full width": ("ｋｉｌｌ them", "kill them"),
    "full width with digits": ("ｋ１ｌｌ", "kill"),
    "bold": (styled("𝐚", "kill"), "kill"),
    "script": (styled("𝓪", "kill"), "kill"),
    "Fraktur": (styled("𝖆", "kill"), "kill"),
    "double-struck": (styled("𝕒", "kill"), "kill"),
    "monospace": (styled("𝚊", "kill"), "kill"),
    "circled": (styled("ⓐ", "kill"), "kill"),
    "in parentheses": (styled("⒜", "kill"), "kill"),
    "squared": (styled("🄰", "kill"), "KILL"),
    "white on black": (styled("🅰", "kill"), "KILL"),
    "white on black, as emoji": ("🅺️🅸️🅻️🅻️", "KILL"),
    "one emoji letter": ("🅱️itch", "Bitch"),
    "flags": ("🇰🇮🇱🇱", "KILL"),
    "flags, spaced": ("🇰 🇮 🇱 🇱", "KILL"),
    "raised": ("ᵏⁱˡˡ", "kill"),
    "small capitals": ("ᴋɪʟʟ", "kill"),
    "phonetic letters": ("ɡrɑb", "grab"),
    "ligatures": ("ﬁre", "fire"),
    "Roman numerals": ("ⅽⅰⅴⅰⅼ", "civil"),
    "Arabic presentation forms": ("ﻗﺘﻞ", "قتل"),
    "Cyrillic in Latin": ("сосаinе and роrn", "cocaine and porn"),
    "Greek in Latin": ("Ηello, Κill τhem", "Hello, Kill them"),
    "Cherokee in Latin": ("Ꭺttack", "Attack"),
    "Armenian in Latin": ("bօmb", "bomb"),
    "small Cyrillic capitals": ("вomв the кids", "bomb the kids"),
    "Latin in Cyrillic": ("пpивeт, xуй", "привет, хуй"),
    "Latin in Greek": ("καλημέpα", "καλημέρα"),
    "a whole word": ("buy ѕех now", "buy sex now"),
    "a whole text": ("ѕех", "sex"),
    "digits": ("k1ll the n3rd5, h4te b00bs", "kill the nerds, hate boobs"),
    "the digit one": ("he1p b1ack s1ut k1ll d1e", "help black slut kill die"),
    "a digit first": ("5ex 5hit 1diot 0rgasm", "sex shit idiot orgasm"),
    "signs": ("sh!t f@g cla$$ic", "shit fag classic"),
    "digits in capitals": ("K1LL P0RN", "KILL PORN"),
    "Cyrillic digits": ("п0рно", "порно"),
    "spaced": ("k i l l  t h e m all", "kill them all"),
    "dotted": ("k.i.l.l", "kill"),
    "dotted words": ("b.u.y g.u.n.s", "buy guns"),
    "spaced lines": ("k i l l\nt h e m", "kill them"),
    "hyphens": ("k-i-l-l", "kill"),
    "stars": ("k * i * l * l", "kill"),
    "down a column": ("k\ni\nl\nl", "kill"),
    "down a column of Windows": ("k\r\ni\r\nl\r\nl", "kill"),
    "far apart": ("k   i   l   l and k\n\ni\n\nl\n\nl", "kill and kill"),
    "underscores": ("k_i_l_l", "kill"),
    "spaces of other widths": ("k\u2009i\u2009l\u2009l, k\u3000i\u3000l\u3000l", "kill, kill"),
    "look-alikes and small capitals": ("ɢսns", "guns"),
    "spaced with a digit": ("k 1 l l 5 of them", "kill 5 of them"),
    "spaced Cyrillic": ("у б е й", "убей"),
    "several at once": (f"𝐤 1 {ZWSP}l l", "kill"),
    "look-alikes and digits": ("рørn? р0rn", "pørn? porn"),
    "in a long text": ("ordinary words " * 50 + "k1ll", "ordinary words " * 50 + "kill"),
}

KEPT = [
    "4K H2O B2B MP3 MP3s 1st 2nd 3rd 22nd covid19 U.S.A. U.S.S.R. i18n k8s a11y x86 C-3PO iPhone15Pro",
    "8h30 14h00 5min 100km 3ème 1er 2.º 90s 5G A4 EC4N 0xff PS5s WW2 log2 v2 10am 007 24/7",
    "me@example.com anna.b3@k1ll.example https://k1ll.example/p0rn?q=5ex www.h4te.example",
    "m² ½ ™ № ª º H₂O CO₂ x² 1ˢᵗ Mᵐᵉ 𝑥 𝕏 ℃ μm kΩ Δx π ① ⓘ Ⓜ️ © ®",
    "A B C D E, x y z, a b c, I a m, Z Z Z Z Z",
    "❤️ ☺︎ 👩‍💻 👨‍👩‍👧‍👦 👍🏽 🏳️‍🌈 1️⃣ #️⃣ 🇺🇸🇫🇷 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🅰️ 🆎",
    "می‌خواهم خانه‌هایشان خبر‌ها ه‍",
    "क्‍ष र्‍य विद्‌यालय র‍্যাব ශ්‍රී",
    "葛󠄀 ᠮᠣᠩᠭᠣᠯ ខ្ញុំ\u200bចង់\u200bទៅ",
    "ＮＨＫ Ｔシャツ １２３ ｗｗｗ ﾊﾛｰ！？（）　㈱",
    "IT-компания iPhone-ом К2-18b ВкусВилл x-координата",
    "кот мама Катя там хорошо",
    "naïve café Ångström Việt ngữ được đường ọ̀rẹ́ за́мок",
    "ﷺ ﷲ محمدٌ בְּרֵאשִׁית",
    "modern burn corn rn m vv w cl d",  # no skeleton: rn stays
    "I1 O0 l1 lI",
]


@pytest.mark.parametrize("name", SEEN)
def test_a_disguise_is_undone(name: str) -> None:
    text, seen = SEEN[name]
    assert normal_form(text) == seen
    assert normal_form(seen) == seen, "the normal form has none"


@pytest.mark.parametrize("text", KEPT)
def test_what_is_no_disguise_stays(text: str) -> None:
    assert normal_form(text) == text


def test_every_word_of_a_text_stays_but_the_disguised_one() -> None:
    text = "Is “k1ll” in 4K?\n\n\tYes — see https://k1ll.example, H2O…"
    assert normal_form(text) == text.replace("“k1ll”", "“kill”")


def test_only_what_differs_is_judged_again() -> None:
    words = "ordinary words " * 1_000
    assert to_judge(words) == ""
    shown = to_judge(f"{words}k1ll{words}")
    assert "kill" in shown
    assert len(shown) == 2 * CONTEXT + len("i")
    assert to_judge(f"k1ll{words}k1ll") == f"kill{words}kill"
    assert to_judge("k1ll") == "kill"


def test_a_very_long_text_has_a_normal_form_everywhere() -> None:
    """Also where one piece of it ends and the next one begins."""
    words = "words " * (LONGEST // 6 - 1)
    text = f"{words}{'k1ll ' * 10}k i l l s1ut{words}p0rn"
    assert normal_form(text) == f"{words}{'kill ' * 10}kill slut{words}porn"
    for letters in range(6):
        before = "a" * letters + words[:-1] + " "
        assert normal_form(f"{before}k i l l end") == f"{before}kill end"
    assert normal_form("ｋ" * (3 * LONGEST)) == "k" * (3 * LONGEST), "one word without an end"


HOSTILE = {
    "one letter": "a",
    "nulls": "\0",
    "half characters": "\ud800",
    "zero width": ZWSP,
    "marks": "\u0301",
    "marks of two kinds": "\u0301\u0323",
    "letters with stacks": "a\u0301\u0323\u0334\u0315",
    "joiners": f"ا{ZWNJ}",
    "emoji joiners": f"😀{ZWJ}",
    "overrides": RLO,
    "overrides within each other": f"{RLO}\u202d",
    "spaced letters": "a ",
    "letters with digits": "a1",
    "signs": "a@",
    "addresses": "a.1@-",
    "flags": "🇰",
    "keycaps": f"1{VS16}",
    "tags": "🏴\U000e0061",
    "long forms": "ﷺ",
    "look-alikes": "сосоa ",
    "Hangul parts": "\u1100\u1161",
    "lines": "a\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_take_linear_time(name: str) -> None:
    """They take a fraction of a second; a quadratic step would take many minutes. Longer texts are cut into pieces."""
    text = (HOSTILE[name] * LONGEST)[: LONGEST + 1_000]
    started = time.process_time()
    normal = normal_form(text)
    assert time.process_time() - started < 10
    assert len(normal) <= len(text)


def test_any_text_has_a_normal_form() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    signs = "аеорсух𝐤ｋⓚ🅺🇰ᴋ\u0301\u0336\u200b\u200d\u202e\u202c\u2066\ufe0f\ud800\udc00\0क्मब้กמم한葛😀"
    alphabet = [*string.printable, *signs]
    for _ in range(3_000):
        text = "".join(chance.choices(alphabet, k=chance.randrange(1, 40)))
        texts(text.encode("utf-8", "surrogatepass"))
