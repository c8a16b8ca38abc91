"""Texts that trip tokenizers: languages, code, emoji, numbers, and every kind of white space."""

TEXTS = {
    "empty": "",
    "english": "The field marshal's horse didn't move; he'd said: \"WE'LL see\", and I'm sure they're right.",
    "french": "L'été, où l'on s'assoit près du grand chêne — « Ça va ? » — n'est pas fini : cœur, naïf, Noël.",
    "german": "Die Straßenbahn fährt über die Brücke; größere Äpfel kosten 3,50 € (früher 2,99 €).",
    "spanish": "¿Dónde está el niño? ¡Mañana comerá piñas y pingüinos en Bogotá!",
    "italian": "Perché non c'è più zucchero nell'espresso? È già finito, così è la città.",
    "code": 'def f(x: int) -> str:\n\tif x != 0x1F and not (x % 2):\n        return f"{x:>8}\\n"  # ¯\\_(ツ)_/¯\n',
    "numbers": "3 33 333 3333 33333 1234567890 3.14159 1,000,000 ½ ٣٤٥ 2²",
    "emoji": "🚀 (normal) 😶\u200d🌫️ ✅ 🦙🦙 👩\u200d👩\u200d👧 🇫🇷!",
    "scripts": "нещо на Български 我想在apple工作1314151天～ កាន់តែ ひらがなカタカナ عربى हिन्दी 한국어",
    "contractions": "I've 'told you, 'RE you sure? 'M not, IT'S A'LL 'd've'll''''s",
    "spaces": " a  b   c    d     e      f\tg\t\th \t i \n j\n\nk \n\n l\r\nm\r\n\r\n  n   ",
    "only spaces": "     \n \n\n\t  \n   ",
    "odd spaces": "a\u00a0b\u2003c\u3000d\u0085e\u2028f\u200bg",
    "punctuation": '------======= !!!!?? ```"""... /* // */ <<>> $%^&*()_+{}|:"<>?[]\\;\',./\n\n//\n/\n',
    "capitals": "HelloWORLD fooBarBAZ McDonald iPhone XMLHttpRequest ÀÉÎõü ǅ",
    "marks": "e\u0301 n\u0303 Z\u0351\u036b\u0343a\u0301lgo",
    "rare": "\u00ff\u0100\ud7ff\ue000\ufffd\U0010fffd\x00\x7f",
}
