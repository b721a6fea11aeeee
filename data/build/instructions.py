"""What a person would say to ask for a relation: three or four plain phrasings each.

The last one is held out: no training sees it. So a new phrasing goes before it, and it shares few words with the rest.
"""

from __future__ import annotations

TONES = {
    "yellow": "yellow",
    "light": "light",
    "medium-light": "medium-light",
    "medium": "medium",
    "medium-dark": "medium-dark",
    "dark": "dark",
}
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
# Roles whose slug does not read as a noun: the rest become "a(n) <role>".
DOING = {
    "bowing": "bowing",
    "biking": "riding a bicycle",
    "bouncing-ball": "bouncing a ball",
    "cartwheeling": "doing a cartwheel",
    "climbing": "climbing",
    "deaf": "signing that they are deaf",
    "facepalming": "covering the face with a hand",
    "feeding-baby": "feeding a baby",
    "frowning": "frowning",
    "gesturing-no": "gesturing no with crossed arms",
    "gesturing-ok": "gesturing OK with the arms above the head",
    "getting-haircut": "getting a haircut",
    "getting-massage": "getting a massage",
    "golfing": "playing golf",
    "in-lotus-position": "sitting in the lotus position",
    "in-steamy-room": "sitting in a steamy room",
    "in-tuxedo": "wearing a tuxedo",
    "juggling": "juggling",
    "kneeling": "kneeling",
    "lifting-weights": "lifting weights",
    "mountain-biking": "riding a mountain bike",
    "playing-handball": "playing handball",
    "playing-water-polo": "playing water polo",
    "pouting": "pouting",
    "raising-hand": "raising a hand",
    "rowing-boat": "rowing a boat",
    "running": "running",
    "shrugging": "shrugging",
    "standing": "standing",
    "surfing": "surfing",
    "swimming": "swimming",
    "tipping-hand": "tipping a hand",
    "walking": "walking",
    "wearing-turban": "wearing a turban",
    "with-veil": "wearing a veil",
}
AIDS = {
    "cane": "a white cane",
    "manual-wheelchair": "a manual wheelchair",
    "motorized-wheelchair": "a motorised wheelchair",
}
HAIR = {
    "red": "red hair",
    "curly": "curly hair",
    "white": "white hair",
    "bald": "no hair",
    "blond": "blond hair",
    "beard": "a beard",
}
FIXED = {
    "age/child>adult": ("turn the child into an adult", "make the child grow up", "show this kid as a grown-up"),
    "age/adult>older": (
        "make the adult old",
        "turn the adult into an older person",
        "show the grown-up as a senior citizen",
    ),
    "age/child>older": (
        "turn the child into an old person",
        "make the child very old",
        "show this kid at the age of eighty",
    ),
    "animal/face>whole": (
        "show the whole animal instead of its face",
        "turn the animal's face into its whole body",
        "draw the entire creature rather than only its head",
    ),
    "arrow/+arrow": ("add an arrow", "put an arrow on it", "overlay the symbol of an arrow"),
    "couple/heart>kiss": (
        "make the couple kiss",
        "turn the couple with a heart into a kissing couple",
        "let the two lovers give each other a kiss",
    ),
    "digit/+1": (
        "count one up",
        "replace the digit by the next one",
        "add one to the number",
        "increase the numeral by a single unit",
    ),
    "digit/digit>clock": (
        "show the number as an hour on a clock",
        "turn the digit into a clock at that hour",
        "swap the numeral for a dial whose hands show that time",
    ),
    "food/raw>made": (
        "turn the ingredient into the food made from it",
        "show what is made from it",
        "swap the raw product for the dish or drink it becomes",
    ),
    "gender/man>woman": ("turn the man into a woman", "make him a woman", "swap the gentleman for a lady"),
    "gender/person>man": ("turn the person into a man", "make the person a man", "portray this human as male"),
    "gender/person>woman": ("turn the person into a woman", "make the person a woman", "portray this human as female"),
    "grow/young>adult": (
        "let it grow up",
        "turn the young one into the adult",
        "show what it is like when fully grown",
    ),
    "hand/up>down": ("point the hand downwards", "turn the hand upside down", "aim the finger or thumb at the floor"),
    "hand/palm>back": (
        "show the back of the hand",
        "turn the hand around",
        "let us see the knuckles instead of the palm",
    ),
    "mailbox/empty>full": ("put mail into the mailbox", "raise the mailbox's flag", "deliver a letter to the postbox"),
    "mailbox/closed>open": ("open the mailbox", "open the mailbox's door", "leave the postbox with its flap ajar"),
    "medal/next": (
        "replace the medal by the next lower one",
        "go one place down on the podium",
        "downgrade gold to silver or silver to bronze",
    ),
    "mirror/person": (
        "make the person face right",
        "turn the person to the right",
        "they should walk or look to the right",
    ),
    "mirror/hand": ("make the hand point right", "mirror the hand", "direct the fingers rightwards"),
    "mirror/object": (
        "make it face the other way",
        "mirror the object from left to right",
        "swap the symbol for its mirror image",
    ),
    "sex/male>female": (
        "turn the male thing into the female one",
        "show the women's version",
        "swap the gents' item for the ladies' equivalent",
    ),
    "sign/+prohibited": (
        "prohibit it",
        "cross it out",
        "put a prohibition sign over it",
        "mark it as forbidden with a slash",
    ),
    "size/large>small": ("make it smaller", "replace it by a smaller one", "reduce the shape to a lesser size"),
    "sky/+face": ("give it a face", "put a face on the moon or sun", "add eyes and a mouth to the moon or sun"),
    "species/face>cat": (
        "turn the face into a cat",
        "make it a cat with the same expression",
        "replace the smiley by a feline that feels the same",
    ),
    "tool/job>tool": (
        "replace the worker by their tool",
        "show the tool of the job",
        "show the equipment of this profession",
    ),
    "vehicle/side>front": (
        "show the vehicle from the front",
        "make the vehicle come towards us",
        "have the car or bus drive straight at the viewer",
    ),
    "volume/up": ("turn it up", "make it one step louder or brighter", "raise the sound or brightness by a notch"),
    "weather/+rain": ("make it rain", "add rain", "let raindrops fall"),
    "weather/+snow": ("make it snow", "add snow", "let snowflakes fall"),
    "weather/+lightning": ("add lightning", "make a thunderstorm of it", "let a bolt flash out of the cloud"),
    "zodiac/thing>sign": (
        "replace it by its sign of the zodiac",
        "show its zodiac symbol",
        "convert it to the matching star sign",
    ),
}


def instructions(relation: str) -> list[str]:
    """Phrasings for a semantic relation, given by name.

    Raises:
        KeyError: the relation belongs to no family known here.
    """
    if relation in FIXED:
        return list(FIXED[relation])
    family, detail = relation.split("/")
    if family == "tone":
        source, target = (TONES[name] for name in detail.split(">"))
        return [
            f"change the skin tone from {source} to {target}",
            f"make the {source} skin {target}",
            f"make the skin tone {target}",
            f"the {source} complexion should become {target}",
        ]
    if family == "colour":
        source, target = detail.split(">")
        return [
            f"change the colour from {source} to {target}",
            f"turn the {source} thing {target}",
            f"the {source} parts should become {target}",
        ]
    if family == "shape":
        source, target = detail.split(">")
        return [
            f"turn the {source} into a {target}",
            f"replace the {source} by a {target} of the same colour",
            f"redraw the {source} in the form of a {target}",
        ]
    if family == "hair":
        return _hair(detail)
    if family == "aid":
        source, target = (AIDS[name] for name in detail.split(">"))
        return [
            f"replace {source} by {target}",
            f"give the person {target} instead of {source}",
            f"swap {source} for {target}",
        ]
    if family == "role":
        if detail in DOING:
            doing = DOING[detail]
            return [f"show the person {doing}", f"make the person be {doing}", f"let us see them {doing}"]
        name = with_article(detail.replace("-", " "))
        return [
            f"turn the person into {name}",
            f"make the person {name}",
            f"dress the person as {name}",
            f"they should look like {name}",
        ]
    if family == "clock":
        return _clock(float(detail.strip("+h")))
    if family == "moon":
        steps = int(detail)
        phases = "one phase" if steps == 1 else f"{NUMBERS[steps]} phases"
        return [
            f"advance the moon by {phases}",
            f"move the moon on by {phases}",
            f"show how it will look in the sky {phases} from now",
        ]
    if family == "rotate":
        degrees = detail.removesuffix("deg")
        return [
            f"turn the arrow by {degrees} degrees clockwise",
            f"rotate the pointing direction by {degrees} degrees",
            f"swing the pointer {degrees} degrees to its right",
        ]
    raise KeyError(relation)


def with_article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _hair(detail: str) -> list[str]:
    if detail.startswith("+"):
        look = HAIR[detail[1:]]
        if look == "no hair":
            return ["make the person bald", "remove the person's hair", "shave their head completely"]
        return [f"give the person {look}", f"show the person with {look}", f"they should have {look}"]
    source, target = (HAIR[name] for name in detail.split(">"))
    source = "a bald head" if source == "no hair" else source
    if target == "no hair":
        return [f"make the person with {source} bald", f"remove the {source}", f"shave off all the {source}"]
    return [
        f"change {source} to {target}",
        f"replace {source} by {target}",
        f"swap {source} for {target}",
    ]


def _clock(hours: float) -> list[str]:
    whole, half = int(hours), hours % 1
    if not whole:
        spoken = "half an hour"
    elif half:
        spoken = f"{NUMBERS[whole]} and a half hours"
    else:
        spoken = "one hour" if whole == 1 else f"{NUMBERS[whole]} hours"
    return [
        f"advance the clock by {spoken}",
        f"set the clock {spoken} later",
        f"move the time on by {hours:g} hours",
        f"let {spoken} pass on the dial",
    ]
