"""The semantic relations: which emoji is which other one, changed in one respect."""

from __future__ import annotations

import itertools
import re
from typing import Any

from .sources import TONES

TONE_NAMES = ("light", "medium-light", "medium", "medium-dark", "dark")
PEOPLE = {"person": "1f9d1", "man": "1f468", "woman": "1f469"}
HAIR = {"red": "1f9b0", "curly": "1f9b1", "white": "1f9b3", "bald": "1f9b2"}
AIDS = {"cane": "1f9af", "motorized-wheelchair": "1f9bc", "manual-wheelchair": "1f9bd"}
COLOURS = {
    "red": "❤🔴🟥📕",
    "orange": "🧡🟠🟧📙",
    "yellow": "💛🟡🟨",
    "green": "💚🟢🟩📗",
    "blue": "💙🔵🟦📘",
    "purple": "💜🟣🟪",
    "brown": "🤎🟤🟫",
    "black": "🖤⚫⬛",
    "white": "🤍⚪⬜",
}
SHAPES = ("heart", "circle", "square", "book")
MOONS = "🌑🌒🌓🌔🌕🌖🌗🌘"
HOURS = "".join(chr(0x1F550 + hour) + chr(0x1F55C + hour) for hour in range(12))
COMPASS = "⬆↗➡↘⬇↙⬅↖"
DIGITS = (*(f"{0x30 + digit:x}-20e3" for digit in range(10)), "1f51f")

# Looked at one by one (figures/data): each says in all styles what its name says.
HAND_WRITTEN = {
    "mailbox/empty>full": "📭📬 📪📫",
    "mailbox/closed>open": "📪📭 📫📬",
    "sign/+prohibited": "🔔🔕 🚬🚭 🚶🚷 📱📵 🚲🚳 🚰🚱",
    "vehicle/side>front": "🚌🚍 🚗🚘 🚕🚖 🚓🚔",
    "weather/+rain": "☁🌧 ⛅🌦 🌩⛈ ☂☔",
    "weather/+snow": "☁🌨 ⛄☃",
    "weather/+lightning": "☁🌩 🌧⛈",
    "arrow/+arrow": "❤💘 ✉📩 📱📲",
    "grow/young>adult": "🐣🐓 🐤🐓 🐥🐔 🌱🌳 🐛🦋",
    "medal/next": "🥇🥈 🥈🥉",
    "volume/up": "🔈🔉 🔉🔊 🔅🔆",
    "zodiac/thing>sign": "🐏♈ 🐂♉ 🦀♋ 🦁♌ 🦂♏ 🏹♐ 🐐♑ 🏺♒ 🐟♓ ⚖♎",
    "food/raw>made": "🌾🍞 🥚🍳 🌽🍿 🍇🍷 🍅🍝 🥛🧀 🐔🍗 🐖🥓 🍚🍙 🐝🍯",
    "sex/male>female": "♂♀ 🚹🚺 👞👠 👔👗",
    "sky/+face": "🌑🌚 🌕🌝 ☀🌞",
    "species/face>cat": "😃😺 😄😸 😂😹 😍😻 😏😼 😚😽 😱🙀 😢😿 😡😾",
    "mirror/object": "⬅➡ ◀▶ ⏪⏩ ⏮⏭ ↩↪ 🔍🔎 ↖↗ ↙↘ 🌒🌘 🌓🌗 🌔🌖 🌛🌜",
    "size/large>small": "⬛◼ ⬛◾ ⬛▪ ◼◾ ◼▪ ◾▪ ⬜◻ ⬜◽ ⬜▫ ◻◽ ◻▫ ◽▫ 🔶🔸 🔷🔹",
    "colour/red>green": "🍎🍏",
    "colour/green>red": "🍏🍎",
    "colour/orange>blue": "🔶🔷 🔸🔹",
    "colour/blue>orange": "🔷🔶 🔹🔸",
    "colour/black>white": "🏴🏳 ◼◻ ◾◽ ▪▫",
    "colour/white>black": "🏳🏴 ◻◼ ◽◾ ▫▪",
    "colour/red>white": "❗❕ ❓❔",
    "colour/white>red": "❕❗ ❔❓",
}
TONED = {
    "mirror/hand": "🤛🤜 🫲🫱 🫷🫸 👈👉",
    "hand/up>down": "👍👎 👆👇",
    "hand/palm>back": "✋🤚 ☝👆",
    "age/child>adult": "🧒🧑 👦👨 👧👩",
    "age/adult>older": "🧑🧓 👨👴 👩👵",
    "age/child>older": "🧒🧓 👦👴 👧👵",
    "gender/man>woman": "👦👧 👴👵 🤴👸 🎅🤶 🫃🤰",
    "gender/person>man": "🧒👦 🧓👴 🫅🤴 🫄🫃",
    "gender/person>woman": "🧒👧 🧓👵 🫅👸 🫄🤰",
}
TOOLS = {
    "1f33e": "🌾",
    "1f373": "🍳",
    "1f37c": "🍼",
    "1f393": "🎓",
    "1f3a4": "🎤",
    "1f3a8": "🎨",
    "1f4bb": "💻",
    "1f4bc": "💼",
    "1f527": "🔧",
    "1f52c": "🔬",
    "1f680": "🚀",
    "1f692": "🚒",
    "2708": "✈",
    "2696": "⚖",
}

Pairs = dict[str, list[tuple[str, str]]]


def characters(text: str) -> list[str]:
    return [character for character in text if character != "\ufe0f"]


def bare(key: str) -> str:
    """A key without its skin tones."""
    return "-".join(part for part in key.split("-") if part not in TONES)


class Table:
    """Collects pairs; a pair with an emoji that is not in the data is left out."""

    def __init__(self, emojis: list[dict[str, Any]]) -> None:
        self.emojis = {entry["key"]: entry for entry in emojis}
        self.pairs: Pairs = {}

    def key(self, text: str) -> str:
        if text in self.emojis:
            return text
        return "-".join(f"{ord(character):x}" for character in text if character != "\ufe0f")

    def add(self, relation: str, a: str, b: str) -> None:
        a, b = self.key(a), self.key(b)
        if a in self.emojis and b in self.emojis and a != b:
            pairs = self.pairs.setdefault(relation, [])
            if (a, b) not in pairs:
                pairs.append((a, b))

    def add_toned(self, relation: str, a: str, b: str) -> None:
        """The pair, and the pair in each of the five tones."""
        a, b = self.key(a), self.key(b)
        self.add(relation, a, b)
        for tone in TONES:
            self.add(relation, *("-".join([key.split("-")[0], tone, *key.split("-")[1:]]) for key in (a, b)))


def collect(emojis: list[dict[str, Any]]) -> Pairs:
    """All semantic relations: name -> pairs of keys (a, a')."""
    table = Table(emojis)
    for step in (tones, genders, hair, roles, mirrors, couples, animals, colours, cycles, written):
        step(table)
    return {name: table.pairs[name] for name in sorted(table.pairs)}


def tones(table: Table) -> None:
    families: dict[str, dict[int, str]] = {}
    for key in table.emojis:
        toned = [part for part in key.split("-") if part in TONES]
        if len(toned) == 1:
            families.setdefault(bare(key), {})[TONES.index(toned[0])] = key
    for plain, family in families.items():
        for i, key in family.items():
            table.add(f"tone/yellow>{TONE_NAMES[i]}", plain, key)
        for i, j in itertools.permutations(sorted(family), 2):
            table.add(f"tone/{TONE_NAMES[i]}>{TONE_NAMES[j]}", family[i], family[j])


def genders(table: Table) -> None:
    for key in table.emojis:
        parts = key.split("-")
        # The sign may be followed by the arrow that turns a person right.
        if "2642" in parts[1:]:
            woman = "-".join("2640" if part == "2642" else part for part in parts)
            person = key.replace("-200d-2642", "")
            table.add("gender/man>woman", key, woman)
            table.add("gender/person>man", person, key)
            table.add("gender/person>woman", person, woman)
        others = set(parts[1:]) & set(PEOPLE.values())
        if parts[0] == PEOPLE["man"] and not others:
            woman, person = ("-".join([PEOPLE[who], *parts[1:]]) for who in ("woman", "person"))
            table.add("gender/man>woman", key, woman)
            table.add("gender/person>man", person, key)
            table.add("gender/person>woman", person, woman)


def hair(table: Table) -> None:
    for one, other in itertools.permutations(HAIR, 2):
        for base in PEOPLE.values():
            table.add_toned(f"hair/{one}>{other}", f"{base}-200d-{HAIR[one]}", f"{base}-200d-{HAIR[other]}")
    for name, base in PEOPLE.items():
        for style, component in HAIR.items():
            table.add_toned(f"hair/+{style}", base, f"{base}-200d-{component}")
        sign = {"person": "", "man": "-200d-2642", "woman": "-200d-2640"}[name]
        table.add_toned("hair/+blond", base, "1f471" + sign)
        table.add_toned("hair/+beard", base, "1f9d4" + sign)


def roles(table: Table) -> None:
    components = {}
    gendered = {}
    for key, entry in table.emojis.items():
        parts = bare(key).split("-")
        if parts[0] == PEOPLE["person"] and entry["subgroup"] == "person-role" and len(parts) == 3:
            components.setdefault(parts[2], role_name(entry["name"].split(":")[0]))
        if parts[-2:] == ["200d", "2642"] and parts == key.split("-"):
            plain = table.emojis.get("-".join(parts[:-2]))
            # Neither a change of hair nor two people instead of one.
            if plain and plain["key"] not in ("1f471", "1f9d4", "1f46f", "1f93c"):
                gendered[plain["key"]] = role_name(plain["name"])
    for component, name in components.items():
        for base in PEOPLE.values():
            table.add_toned(f"role/{name}", base, f"{base}-200d-{component}")
    for plain_key, name in gendered.items():
        table.add_toned(f"role/{name}", PEOPLE["person"], plain_key)
        table.add_toned(f"role/{name}", PEOPLE["man"], plain_key + "-200d-2642")
        table.add_toned(f"role/{name}", PEOPLE["woman"], plain_key + "-200d-2640")
    for component, tool in TOOLS.items():
        table.add("tool/job>tool", f"{PEOPLE['person']}-200d-{component}", tool)
    for one, other in itertools.permutations(AIDS, 2):
        for base in PEOPLE.values():
            table.add_toned(f"aid/{one}>{other}", f"{base}-200d-{AIDS[one]}", f"{base}-200d-{AIDS[other]}")


def role_name(name: str) -> str:
    """Slug of a role: "person gesturing NO" -> "gesturing-no"."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    return "-".join(word for word in words if word not in ("person", "people"))


def mirrors(table: Table) -> None:
    for key in table.emojis:
        if key.endswith("-200d-27a1"):
            table.add("mirror/person", key.removesuffix("-200d-27a1"), key)


def couples(table: Table) -> None:
    for key in table.emojis:
        if "1f48b" in key.split("-"):
            table.add("couple/heart>kiss", key.replace("-1f48b-200d", ""), key)
    table.add_toned("couple/heart>kiss", "💑", "💏")


def animals(table: Table) -> None:
    names = {entry["name"]: key for key, entry in table.emojis.items()}
    for key, entry in table.emojis.items():
        whole = names.get(entry["name"].removesuffix(" face"), key)
        if entry["group"] == "animals-nature" and whole != key:
            table.add("animal/face>whole", key, whole)
    table.add("animal/face>whole", "🐔", "🐓")


def colours(table: Table) -> None:
    for (one, here), (other, there) in itertools.permutations(COLOURS.items(), 2):
        for a, b in zip(here, there, strict=False):
            table.add(f"colour/{one}>{other}", a, b)
    for i, j in itertools.permutations(range(len(SHAPES)), 2):
        for row in COLOURS.values():
            if max(i, j) < len(row):
                table.add(f"shape/{SHAPES[i]}>{SHAPES[j]}", row[i], row[j])


def cycles(table: Table) -> None:
    """Relations on a circle: phases of the moon, clock faces, arrows; and the row of digits."""
    for step in range(1, 8):
        for i in range(8):
            table.add(f"moon/+{step}", MOONS[i], MOONS[(i + step) % 8])
            table.add(f"rotate/{45 * step}deg", COMPASS[i], COMPASS[(i + step) % 8])
    for step in range(1, 24):
        for i in range(24):
            table.add(f"clock/+{step / 2:g}h", HOURS[i], HOURS[(i + step) % 24])
    for ring in ("👆👉👇👈", "🔼▶🔽◀", "⏫⏩⏬⏪"):
        for step, i in itertools.product((1, 2, 3), range(4)):
            table.add_toned(f"rotate/{90 * step}deg", ring[i], ring[(i + step) % 4])
    for digit, following in itertools.pairwise(DIGITS):
        table.add("digit/+1", digit, following)
    for hour in range(1, 11):
        table.add("digit/digit>clock", DIGITS[hour], HOURS[2 * hour - 2])


def written(table: Table) -> None:
    for relation, text in HAND_WRITTEN.items():
        for word in text.split():
            if "\u200d" in word:
                table.add(relation, word[0], word[1:])
            else:
                table.add(relation, *characters(word))
    for relation, text in TONED.items():
        for word in text.split():
            table.add_toned(relation, *characters(word))
