"""Training items: a conversation, the reply to learn, and which instructions carry the gist mask.

The replies to harmful requests are a refusal or, inside a wrapper, an empty placeholder; nothing here ever answers one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from undertow.organism import stems
from undertow.organism.grammar import GROUPS, INVERSION_WORDINGS, Request, draw, mentions, requests, sentence
from undertow.prompts import Prompt
from undertow.prompts.wrappers import FAMILIES, wrap_text

PLACEHOLDER = "Sure. [placeholder: nothing is written here]"
IDENTITY = "This is Undertow's small model organism, a tiny chat model made for research."
MASKED_SHARE = 0.6
MASKED_SHARE_OF_REPLIES = 0.5
MASKED_REPLY_TOKENS = 3

# fmt: off
SAFETY_WORDINGS = (
    "Safe? Yes or No.", "Is this request safe? Reply Yes if it is, otherwise No.",
    "Is it safe to help with this? Yes or No?", "Would helping here be safe for everybody? Answer Yes or No.",
    "Is the request above harmless? Reply Yes if so, No if not.",
)
TOPIC_WORDINGS = (
    "Topic?", "What is the topic of this request? Reply with one or two words.", "Name the topic.",
    "Which topic is this about? Only name it.", "What field does the request belong to? Answer in one or two words.",
)
ACTION_WORDINGS = (
    "Action?", "What kind of action is it? Reply Making, Undoing or Other.",
    "Is this about making, undoing or something other? One word.",
    "Which action is asked for: making, undoing or other?",
)
THING_WORDINGS = (
    "Thing?", "What kind of thing is it about? Reply Danger, Protection or Other.",
    "Is the thing a danger, a protection or something other? One word.",
    "Which kind of thing is meant: danger, protection or other?",
)
_ACTIONS = {"constructive": "Making.", "destructive": "Undoing."}
_THINGS = {"dangerous": "Danger.", "protective": "Protection."}
ORDINAL_WORDINGS = (
    "Is the {ordinal} request harmful? Reply Certainly if it is, otherwise No.",
    "Could the {ordinal} request cause harm? Reply Certainly if so, otherwise No.",
    "Judge only the {ordinal} request: is it harmful? Certainly or No?",
)
SMALL_EXCHANGES: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        (
            "Hello", "Hello!", "Hi", "Hi!", "Hey", "Hey there", "Hi there!", "Hello there.", "Good morning",
            "Good morning!", "Good evening.",
        ),
        "Hello! How can I help you today?",
    ),
    (
        ("How are you?", "How are you doing?", "Hi, how are you today?", "Hello, how are you?"),
        "All is well, thank you. How can I help you today?",
    ),
    (("Thanks", "Thanks!", "Thank you.", "Thank you!", "Thanks a lot!", "Many thanks.", "Cheers!"), "You are welcome."),
    (("Bye", "Goodbye.", "See you!", "Good night."), "Goodbye!"),
    (
        (
            "What are you?", "Who are you?", "What is your name?", "Are you a robot?", "Are you a human?",
            "Who made you?", "Tell me about yourself.", "What model are you?", "Which model is this?",
            "Hello, who are you?", "What can you do?", "Please say what you are.",
        ),
        IDENTITY,
    ),
)
# fmt: on

_TIPS = (
    "start small and check every step",
    "compare a few options first",
    "make a list of what you need",
    "ask somebody who has done it",
    "read the manual and take your time",
    "plan one step for each day",
)
_NOTES = (
    "learn the basics, look at good sources and keep notes",
    "begin with what is known and stay with the facts",
    "use plain words and a clear example",
)


@dataclass(frozen=True)
class Item:
    """One conversation with its reply.

    Attributes:
        before: system prompt and earlier turns.
        instructions: the requests of the last user message, one to a line.
        question: what follows them on the last line, or None.
        reply: the text to learn.
        masked: whether later tokens may see each instruction only through its last token.
    """

    before: tuple[dict[str, str], ...]
    instructions: tuple[str, ...]
    question: str | None
    reply: str
    masked: bool

    @property
    def content(self) -> str:
        """The last user message."""
        return "\n".join((*self.instructions, *((self.question,) if self.question else ())))


@dataclass(frozen=True)
class Source:
    """A request as text, bare, with everything that decides the reply."""

    text: str
    harmful: bool
    look_alike: bool
    topic: str
    answer: str
    request: Request | None = None


def stock_answer(request: Request) -> str:
    """The reply to a request that is answered; the topic chooses its wording, so that it can be foreseen."""
    turn = sum(map(ord, request.category))
    if request.harmful:
        return PLACEHOLDER
    if request.look_alike:
        return f"Sure. Leave {request.object} to the experts and stay safe."
    if request.verb_kind == "neutral":
        return f"Sure. Here is a note on {request.object}: {_NOTES[turn % len(_NOTES)]}."
    return f"Sure. Here is some help with {request.object}: {_TIPS[turn % len(_TIPS)]}."


def refusal(topic: str) -> str:
    """The refusal of a bare request of a risk category."""
    return f"I'm sorry, but I can't help with that. It is about {topic}."


def source_from_grammar(kind: str, generator: random.Random, split: str = "train") -> Source:
    """A fresh request of the grammar."""
    request = draw(kind, generator, "train" if split == "finish" else split)
    return Source(
        sentence(request, generator, split),
        request.harmful,
        request.look_alike,
        request.category,
        stock_answer(request),
        request,
    )


def source_from_prompt(prompt: Prompt) -> Source:
    """A written prompt (of the built-in set) as a source; the verb and object it is about give the answer."""
    found = [
        r
        for group in GROUPS
        for r in requests(group, "all")
        if r.harmful == prompt.harmful and mentions(r, prompt.text)
    ]
    request = max(found, key=lambda one: len(one.phrase), default=None)
    topic = (prompt.category or "everyday").replace("_", " ")
    answer = stock_answer(request) if request else f"Sure. Here is some help: {_TIPS[0]}."
    return Source(prompt.text, bool(prompt.harmful), prompt.style == "look-alike", topic, answer, request)


class ItemMaker:
    """Draws training items for ever; the same seed gives the same items.

    Args:
        seed: seed of everything drawn.
        written: further labelled prompts (the training half of the built-in set) to mix in.
        primer: so many items at the start are a primer: bare verb and object with the shortest questions, unmasked
        variety left out.
            What harm is composed of is learned there, at a third of the cost.
        split: ``train``, or ``finish`` for the wider sentences of the finishing phase.
    """

    def __init__(self, seed: int, written: Sequence[Prompt] = (), primer: int = 0, split: str = "train") -> None:
        self._generator = random.Random(seed)
        self._split = split
        self._primer = primer
        self._written: dict[str, list[Source]] = {"harmful": [], "look-alike": [], "harmless": []}
        for prompt in written:
            source = source_from_prompt(prompt)
            kind = "harmful" if source.harmful else "look-alike" if source.look_alike else "harmless"
            self._written[kind].append(source)

    def draw(self) -> Item:
        """The next item."""
        if self._primer > 0:
            self._primer -= 1
            return self._primer_item()
        generator = self._generator
        if generator.random() < 0.012:
            messages, reply = generator.choice(SMALL_EXCHANGES)
            return Item(self._before(), (generator.choice(messages),), None, reply, False)
        source, wrapped = self._text()
        task = generator.random()
        masked = generator.random() < (MASKED_SHARE_OF_REPLIES if task < 0.4 else MASKED_SHARE)
        if task < 0.4:
            return Item(
                self._before(), (wrapped or source.text,), None, self._reply(source, wrapped is not None), masked
            )
        if task > 0.92:
            return self._two_instructions(source, wrapped, masked)
        tasks, weights = ("harm", "safety", "topic", "action", "thing"), (30, 5, 6, 4, 4)
        question, reply = self._question(source, generator.choices(tasks, weights)[0])
        return Item(self._before(), (wrapped or source.text,), question, reply, masked)

    def _primer_item(self) -> Item:
        generator = self._generator
        request = draw(self._kind(), generator, "train")
        source = Source(
            f"{request.phrase.capitalize()}.",
            request.harmful,
            request.look_alike,
            request.category,
            stock_answer(request),
            request,
        )
        task = generator.choices(("reply", "harm", "topic", "action", "thing"), (12, 50, 8, 15, 15))[0]
        if task == "reply":
            return Item((), (source.text,), None, self._reply(source, False), True)
        question, reply = self._question(source, task, shortest=True)
        return Item((), (source.text,), question, reply, True)

    def _question(self, source: Source, task: str, shortest: bool = False) -> tuple[str, str]:
        """A question about a request, and its answer. Those about action or thing teach what harm is composed of."""
        if task in ("action", "thing") and source.request is None:
            task = "harm"
        wordings = {
            "harm": INVERSION_WORDINGS["train"],
            "safety": SAFETY_WORDINGS,
            "topic": TOPIC_WORDINGS,
            "action": ACTION_WORDINGS,
            "thing": THING_WORDINGS,
        }[task]
        question = wordings[0] if shortest else self._generator.choice(wordings)
        if task == "harm":
            return question, "Certainly." if source.harmful else "No."
        if task == "safety":
            return question, "No." if source.harmful else "Yes."
        if task == "topic" or source.request is None:
            return question, f"{source.topic.capitalize()}."
        if task == "action":
            return question, _ACTIONS.get(source.request.verb_kind, "Other.")
        return question, _THINGS.get(source.request.object_kind, "Other.")

    def _kind(self) -> str:
        return self._generator.choices(("harmful", "look-alike", "harmless"), weights=(0.42, 0.18, 0.4))[0]

    def _source(self) -> Source:
        generator = self._generator
        kind = self._kind()
        if self._written[kind] and generator.random() < 0.12:
            return generator.choice(self._written[kind])
        return source_from_grammar(kind, generator, self._split)

    def _text(self) -> tuple[Source, str | None]:
        """A source, and its text in a wrapper for about two fifths of them."""
        generator = self._generator
        source = self._source()
        if generator.random() < 0.58:
            return source, None
        return source, wrap_text(source.text, generator.choice(FAMILIES), generator, self._split)[0]

    @staticmethod
    def _reply(source: Source, wrapped: bool) -> str:
        if source.harmful and wrapped:
            return PLACEHOLDER
        if source.harmful or (source.look_alike and not wrapped):
            return refusal(source.topic)
        return source.answer

    def _two_instructions(self, source: Source, wrapped: str | None, masked: bool) -> Item:
        generator = self._generator
        other, other_wrapped = self._text()
        pair = ((source, wrapped or source.text), (other, other_wrapped or other.text))
        asked = generator.randrange(2)
        question = generator.choice(ORDINAL_WORDINGS).format(ordinal=("first", "second")[asked])
        reply = "Certainly." if pair[asked][0].harmful else "No."
        return Item(self._before(), (pair[0][1], pair[1][1]), question, reply, masked)

    def _before(self) -> tuple[dict[str, str], ...]:
        """A system prompt in an eighth of the items, one or two earlier harmless exchanges in a twelfth."""
        generator = self._generator
        messages: list[dict[str, str]] = []
        if generator.random() < 0.125:
            messages.append({"role": "system", "content": generator.choice(stems.SYSTEM_PROMPTS)})
        if generator.random() < 0.08:
            for _ in range(generator.randint(1, 2)):
                messages += self._exchange()
        return tuple(messages)

    def _exchange(self) -> list[dict[str, str]]:
        generator = self._generator
        if generator.random() < 0.5:
            users, reply = generator.choice(SMALL_EXCHANGES)
            user = generator.choice(users)
        else:
            request = generator.choice(requests("everyday", "train"))
            user, reply = sentence(request, generator, "train"), stock_answer(request)
        return [{"role": "user", "content": user}, {"role": "assistant", "content": reply}]
