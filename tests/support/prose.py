"""Prose in six scripts: the first articles of the Universal Declaration of Human Rights, over and over."""

from __future__ import annotations

PROSE = {
    "Latin (English)": (
        "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience "
        "and should act towards one another in a spirit of brotherhood. Everyone is entitled to all the rights and "
        "freedoms set forth in this Declaration, without distinction of any kind, such as race, colour, sex, language, "
        "religion, political or other opinion. "
    ),
    "Cyrillic (Russian)": (
        "Все люди рождаются свободными и равными в своём достоинстве и правах. Они наделены разумом и совестью и "
        "должны поступать в отношении друг друга в духе братства. Каждый человек должен обладать всеми правами и "
        "всеми свободами, провозглашёнными настоящей Декларацией, без какого бы то ни было различия. "
    ),
    "Arabic": (
        "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا وعليهم أن يعامل بعضهم بعضا بروح "
        "الإخاء. لكل إنسان حق التمتع بكافة الحقوق والحريات الواردة في هذا الإعلان، دون أي تمييز. "
    ),
    "Devanagari (Hindi)": (
        "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि और अन्तरात्मा की देन "
        "प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिए। "
    ),
    "Chinese": (
        "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。"
        "人人有资格享有本宣言所载的一切权利和自由,不分种族、肤色、性别、语言、宗教、政治或其他见解。"
    ),
    "Ethiopic (Amharic)": (
        "የሰው ልጅ ሁሉ ሲወለድ ነጻና በክብርና በመብትም እኩልነት ያለው ነው። የተፈጥሮ ማስተዋልና ሕሊና ስላለው አንዱ ሌላውን በወንድማማችነት መንፈስ መመልከት ይገባዋል። "
    ),
}


def prose(script: str, characters: int) -> str:
    """So many characters of it."""
    text = PROSE[script]
    return (text * (characters // len(text) + 1))[:characters]
