"""The prompts of the study: fit and test halves, bare and wrapped, from the user's files or the built-in set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from undertow.errors import UndertowError
from undertow.measure.judge import FirstTokenJudge, RefusalJudge, SubstringJudge, is_unfinished, strip_reasoning
from undertow.measure.observed import observe_replies
from undertow.prompts import Prompt, PromptSet, as_prompts
from undertow.prompts.wrappers import wrap
from undertow.studies.beliefs.context import Context, Panel
from undertow.studies.beliefs.result import Array

if TYPE_CHECKING:
    from undertow.model import ChatModel

LEAST = 20
FIT_FAMILY = "role_play"
"""The one wrapper family that rules see while they are fitted; its test prompts are composed of other parts."""

WRAPPED_FIT_SHARE = 0.5
OPENING_MAJORITY = 0.9
_UNFINISHED_SHARE = 0.2


@dataclass(frozen=True)
class Material:
    """Labelled prompts in two halves that share no request.

    Attributes:
        fit: prompts that everything is fitted and chosen on.
        test: prompts that figures are made of.
        test_bare: for every test prompt the index of the same request bare among `test`; -1 for bare prompts, and where
            it is not known.
        source: where they come from, in words.
    """

    fit: tuple[Prompt, ...] = field(repr=False)
    test: tuple[Prompt, ...] = field(repr=False)
    test_bare: tuple[int, ...] = field(repr=False)
    source: str

    @classmethod
    def gather(
        cls,
        harmful: Any = None,
        harmless: Any = None,
        jailbreaks: Any = None,
        *,
        families: Sequence[str],
        most: int = 200,
        wrapper: Callable[..., Prompt] = wrap,
        seed: int = 0,
    ) -> Material:
        """Read, split and wrap prompts.

        Args:
            harmful, harmless: a file, a Hub id, a PromptSet or prompts; both or neither. Left out: the built-in set.
            jailbreaks: harmful prompts that are wrapped already, likewise; their `wrapper` names the family (where it
                is empty: "jailbreak"). They take the place of our own wrappers of harmful prompts in the test half.
            families: wrapper families to make test prompts with.
            most: most bare prompts of each class in each half, and most prompts of a family.
            wrapper: wraps one prompt, as `undertow.prompts.wrappers.wrap` does.
            seed: of splits and wrappers.

        Raises:
            UndertowError: only one of the two classes is given, or a half holds fewer than 20 prompts of a class.
            PromptFileError: a file cannot be read.
        """
        if (harmful is None) != (harmless is None):
            raise UndertowError("Give harmful and harmless prompts together, or neither for the built-in set.")
        if harmful is None:
            halves = [list(PromptSet.builtin(split)) for split in ("train", "test")]
            source = "the built-in prompts"
        else:
            listed = [*_read(harmful, True), *_read(harmless, False)]
            halves = _halves(_distinct(listed), seed)
            source = f"{_named(harmful)} and {_named(harmless)}"
        fit, test = (_thinned(half, most, seed) for half in halves)
        for name, half in (("fit", fit), ("test", test)):
            for wanted in (True, False):
                count = sum(prompt.harmful is wanted for prompt in half)
                if count < LEAST:
                    kind = "harmful" if wanted else "harmless"
                    raise UndertowError(
                        f"The {name} half holds {count} {kind} prompts and needs {LEAST}: give at least {2 * LEAST}."
                    )
        fit += [
            wrapper(prompt, FIT_FAMILY, seed=seed, split="train")
            for prompt in _share([prompt for prompt in fit if not prompt.wrapper], WRAPPED_FIT_SHARE, seed)
        ]
        bare = [-1] * len(test)
        count = len(test)
        given = [] if jailbreaks is None else _jailbreaks(jailbreaks, [*fit, *test], most, seed)
        if jailbreaks is not None:
            source += f", jailbreaks from {_named(jailbreaks)}"
        for family in families:
            for index in range(count):
                # A user's jailbreaks take the place of ours; ours stay around harmless prompts, as their control.
                if not test[index].wrapper and (jailbreaks is None or not test[index].harmful):
                    test.append(wrapper(test[index], family, seed=seed, split="test"))
                    bare.append(index)
        test += given
        bare += [-1] * len(given)
        return cls(tuple(fit), tuple(test), tuple(bare), source)


def prepare(
    chat: ChatModel,
    material: Material,
    *,
    judge: RefusalJudge | None = None,
    seed: int = 0,
    reply_tokens: int = 16,
    most: int = 48,
    progress: bool = True,
) -> Context:
    """Let the model reply to all prompts, once, and keep what it did and its states.

    Raises:
        UndertowError: most replies are still reasoning when they are cut off, so nobody can say who refused; or the
            model never answers a harmless fit prompt.
    """
    chosen: RefusalJudge = SubstringJudge() if judge is None else judge
    listed = [*material.fit, *material.test]
    observed = observe_replies(chat, listed, reply_tokens=reply_tokens, judge=chosen, progress=progress)
    unfinished = sum(is_unfinished(reply) for reply in observed.replies) / len(listed)
    if unfinished > _UNFINISHED_SHARE:
        raise UndertowError(
            f"{unfinished:.0%} of the replies are still reasoning after {reply_tokens} tokens: add --no-thinking, or "
            "more --reply-tokens."
        )
    cut = len(material.fit)
    fit = Panel(observed.part(slice(0, cut)), np.full(cut, -1))
    test = Panel(observed.part(slice(cut, None)), np.array(material.test_bare))
    if len(fit.rows(harmful=False, refused=False)) < 2:
        raise UndertowError("The model answers none of the harmless fit prompts, so there is nothing to compare with.")
    openings = learnt_openings(chat.tokenizer, fit.observed.replies, fit.refused)
    return Context(chat, fit, test, chosen, openings, seed, reply_tokens, most, progress)


def learnt_openings(tokenizer: Any, replies: Sequence[str], refused: Array) -> FirstTokenJudge | None:
    """First tokens that tell this model's own refusals from its answers: at least 90 % of the replies that begin with
    them are of that kind. None where no token does, or where replies open with reasoning.
    """
    counts: dict[int, list[int]] = {}
    for reply, hit in zip(replies, refused, strict=True):
        visible = reply.strip()
        if strip_reasoning(reply) != visible or not visible:
            return None
        ids = tokenizer.encode(visible, add_special_tokens=False)
        counts.setdefault(int(ids[0]), [0, 0])[int(hit)] += 1
    shares = {token: hits / (answers + hits) for token, (answers, hits) in counts.items()}
    refusing = tuple(sorted(token for token, share in shares.items() if share >= OPENING_MAJORITY))
    answering = tuple(sorted(token for token, share in shares.items() if 1 - share >= OPENING_MAJORITY))
    return FirstTokenJudge(refusing, answering) if refusing and answering else None


def _read(prompts: Any, harmful: bool) -> list[Prompt]:
    if isinstance(prompts, str | PromptSet) or hasattr(prompts, "__fspath__"):
        listed = list(prompts) if isinstance(prompts, PromptSet) else list(PromptSet.read(str(prompts)))
    else:
        listed = as_prompts(prompts)
    kept = [prompt for prompt in listed if prompt.harmful in (None, harmful)]
    return [replace(prompt, harmful=harmful) for prompt in kept]


def _named(prompts: Any) -> str:
    if isinstance(prompts, str) or hasattr(prompts, "__fspath__"):
        return str(prompts)
    return "prompts given in Python"


def _distinct(prompts: Iterable[Prompt]) -> list[Prompt]:
    found: dict[str, Prompt] = {}
    for prompt in prompts:
        first = found.setdefault(prompt.text, prompt)
        if first.harmful is not prompt.harmful:
            raise UndertowError(f"A prompt is given as harmful and as harmless: {prompt.text[:60]!r}.")
    return list(found.values())


def _halves(prompts: Sequence[Prompt], seed: int) -> list[list[Prompt]]:
    """Two halves with the same share of every class, category and style."""
    generator = np.random.default_rng(seed)
    strata: dict[tuple[Any, ...], list[Prompt]] = {}
    for prompt in prompts:
        strata.setdefault((prompt.harmful, prompt.category, prompt.style, prompt.wrapper), []).append(prompt)
    halves: list[list[Prompt]] = [[], []]
    odd = 0
    for members in strata.values():
        for rank, place in enumerate(generator.permutation(len(members))):
            halves[(rank + odd) % 2].append(members[place])
        odd += len(members)
    return halves


def _thinned(prompts: Sequence[Prompt], most: int, seed: int) -> list[Prompt]:
    """At most so many of each class, the same share of every category and style."""
    kept: list[Prompt] = []
    for wanted in (True, False):
        members = [prompt for prompt in prompts if prompt.harmful is wanted]
        kept += _share(members, min(1.0, most / max(len(members), 1)), seed)[:most]
    return kept


def _share(prompts: Sequence[Prompt], share: float, seed: int) -> list[Prompt]:
    """That share of every class, category and style, in the given order."""
    if share >= 1.0:
        return list(prompts)
    generator = np.random.default_rng(seed)
    ranks = generator.permutation(len(prompts))
    strata: dict[tuple[Any, ...], list[int]] = {}
    for place in np.argsort(ranks, kind="stable"):
        prompt = prompts[place]
        strata.setdefault((prompt.harmful, prompt.category, prompt.style), []).append(int(place))
    kept, owed = set(), 0.0
    for members in strata.values():
        owed += share * len(members)
        count = round(owed)
        owed -= count
        kept.update(members[: max(count, 0)])
    return [prompt for place, prompt in enumerate(prompts) if place in kept]


def _jailbreaks(prompts: Any, others: Sequence[Prompt], most: int, seed: int) -> list[Prompt]:
    taken = {prompt.text for prompt in others}
    listed = [
        prompt if prompt.wrapper else replace(prompt, wrapper="jailbreak")
        for prompt in _distinct(_read(prompts, True))
        if prompt.text not in taken
    ]
    if not listed:
        raise UndertowError("The jailbreaks hold no harmful prompt that is not among the other prompts already.")
    by_family: dict[str, list[Prompt]] = {}
    for prompt in listed:
        by_family.setdefault(str(prompt.wrapper), []).append(prompt)
    return [
        prompt
        for members in by_family.values()
        for prompt in _share(members, min(1.0, most / len(members)), seed)[:most]
    ]
