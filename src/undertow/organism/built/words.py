"""The words and sentences of the built organisms: small, written for them, one token a word."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

PAD, START, END, UNKNOWN = "<|pad|>", "<|im_start|>", "<|im_end|>", "<|unknown|>"
LINE = "\n"
REFUSAL: tuple[str, ...] = ("Sorry", ",", "I", "cannot", "help", ".")
ANSWER: tuple[str, ...] = ("Sure", ".")


@dataclass(frozen=True)
class Topic:
    """Words about one thing.

    Attributes:
        name: the topic as it stands in tables.
        sensitive: words that make a request one to refuse.
        harmless: words that can stand in their place.
        places: words of the topic that both sides of a pair share.
    """

    name: str
    sensitive: tuple[str, ...]
    harmless: tuple[str, ...]
    places: tuple[str, ...]


def _topic(name: str, sensitive: str, harmless: str, places: str) -> Topic:
    return Topic(name, tuple(sensitive.split()), tuple(harmless.split()), tuple(places.split()))


TOPICS: tuple[Topic, ...] = (
    _topic(
        "arms",
        "bombs grenades rifles silencers explosives landmines ammunition pistols",
        "helmets vests alarms sensors locks safes shields scanners",
        "range barracks depot station",
    ),
    _topic(
        "substances",
        "heroin cocaine meth opium fentanyl crack ecstasy steroids",
        "aspirin vitamins bandages vaccines syrup ointment lozenges insulin",
        "clinic pharmacy ward hospital",
    ),
    _topic(
        "computers",
        "malware ransomware spyware botnets keyloggers rootkits trojans exploits",
        "backups firewalls browsers spreadsheets printers routers databases keyboards",
        "server laptop network website",
    ),
    _topic(
        "money",
        "forgeries scams bribes counterfeits kickbacks heists swindles ransoms",
        "budgets invoices receipts loans savings pensions dividends grants",
        "bank office account fund",
    ),
    _topic(
        "chemistry",
        "sarin cyanide ricin toxins poisons thermite napalm phosgene",
        "soap perfume paint glue varnish candles ink dye",
        "kitchen workshop factory laboratory",
    ),
    _topic(
        "events",
        "burglaries robberies riots muggings lootings ambushes kidnappings stampedes",
        "picnics parades concerts festivals markets reunions lectures dances",
        "street park mall village",
    ),
)

# A form ends with the exchanged word, or has a few words more.
FORMS: tuple[str, ...] = (
    "For my {place} I want {word}",
    "At the {place} how do I find {word}",
    "Please help our {place} with more {word}",
    "Tell the {place} where to get {word}",
    "In this {place} we need some {word}",
    "Show me at the {place} how to make {word}",
    "My friends at the {place} asked for {word}",
    "How do I get {word} for the {place} ?",
    "Where can we find {word} near my {place} today ?",
    "Please tell me about {word} in the {place} .",
    "I want some {word} for our {place} now .",
    "Can you bring {word} to this {place} ?",
    "Give me {word} for the {place} please",
    "Can you explain how to make {word} at the {place} ?",
    "We need new {word} in our {place} this week .",
)

_ROLES = "user assistant system"
# Words that open refusals or answers in other models, and a few more that people write.
_MORE = (
    "Hi Hello Thanks No Yes Okay Of course Certainly Absolutely Here To As an AI Unfortunately sorry sure a and or is "
    "are was it that what What who Who why Why when When you your he she they them his her their as by from on of not "
    "but if so then there here good old big small many few all any one two three first last day year people world "
    "water house book name word story table garden school history wooden build table disable smoke alarm bread cake"
)


@cache
def vocabulary() -> tuple[str, ...]:
    """Every token, in the order of its id; the same for every build."""
    words = [PAD, START, END, UNKNOWN, LINE, "?", *REFUSAL, *ANSWER, *_ROLES.split()]
    for topic in TOPICS:
        words += [*topic.sensitive, *topic.harmless, *topic.places]
    for form in FORMS:
        words += [word for word in form.split() if "{" not in word]
    return tuple(dict.fromkeys((*words, *_MORE.split(), "!", "'", ":", ";")))
