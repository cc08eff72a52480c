"""What the routing study is asked for, made ready and refused where it cannot work, before the model is run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undertow.errors import UndertowError
from undertow.prompts.ciphers import SubstitutionCipher
from undertow.studies.routing.material import (
    Cipher,
    at_most,
    cipher_of,
    given_pairs,
    is_organism,
    organism_pairs,
)

if TYPE_CHECKING:
    from undertow.measure.judge import RefusalJudge
    from undertow.model import ChatModel
    from undertow.prompts.pairs import PairSet
    from undertow.studies.routing.context import Context
    from undertow.studies.routing.loads import Assumed
    from undertow.studies.routing.plan import Plan
    from undertow.studies.routing.sizes import ModelShape

COMPARED_WITH = {"organism:bilingual": "organism:aligned"}
SPOKEN = {"organism:aligned": ("en",)}
"""Languages of models that do not speak all that pairs may be in."""
ORGANISM_BUILDS = 50


@dataclass(frozen=True)
class Settings:
    """What the study is asked for; `measure_routing` says what each means."""

    pairs: Any = None
    pairs_most: int | None = None
    readout: str = "log-odds"
    refusal_tokens: Sequence[str] = ()
    answer_tokens: Sequence[str] = ()
    judge: RefusalJudge | str | None = None
    cipher: Any = "default"
    compare_with: Any = None
    builds: int | None = None
    seed: int = 0
    reply_tokens: int = 16
    branches: int | None = None
    memory: float | None = None
    permutations: int = 10_000


@dataclass(frozen=True)
class Prepared:
    """Everything that could be refused before the model is run, and was not.

    Attributes:
        settings: as asked.
        chat: the model.
        second: the model to compare with.
        judge: the judge of refusals.
        pairs: matched pairs.
        halves: choose and report pairs.
        cipher: the cipher and its name.
        builds: built circuits to screen.
        branches: most branches of replay in one pass.
        tokens_per_batch: most tokens of a batch, where memory is bounded.
    """

    settings: Settings
    chat: ChatModel
    second: ChatModel | None
    judge: RefusalJudge | None
    pairs: PairSet
    halves: tuple[PairSet, PairSet] = field(repr=False)
    cipher: tuple[Cipher, str] | None
    builds: int
    branches: int
    tokens_per_batch: int | None


def check_settings(model: str, settings: Settings) -> tuple[PairSet | None, tuple[Cipher, str] | None]:
    """Refuse what can be refused before a model is loaded; give back the pairs that were read, and the cipher.

    Args:
        model: its name.
        settings: what is asked for.

    Raises:
        UndertowError: see `measure_routing`.
    """
    from undertow.studies.routing.readouts import READOUTS

    if settings.readout not in READOUTS:
        raise UndertowError(f"There is no readout {settings.readout!r}: use {', '.join(READOUTS)}.")
    if bool(settings.refusal_tokens) != bool(settings.answer_tokens):
        raise UndertowError("State the openings of both refusals and answers, or of neither.")
    if settings.branches is not None and settings.memory is not None:
        raise UndertowError("Give a number of branches or a bound on memory, not both.")
    if settings.branches is not None and settings.branches < 1:
        raise UndertowError(f"Replay needs at least one branch a pass, not {settings.branches}.")
    if settings.memory is not None and not 0 < settings.memory < math.inf:
        raise UndertowError("A bound on memory is a number of bytes above 0.")
    if settings.builds is not None and (settings.builds < 0 or settings.builds == 1):
        raise UndertowError(f"Ask for 0 built circuits or at least 2, not {settings.builds}.")
    cipher = cipher_of(settings.cipher)
    pairs = given_pairs(settings.pairs, model)
    return None if pairs is None else at_most(pairs, settings.pairs_most, settings.seed), cipher


def prepare_run(model: Any, settings: Settings) -> Prepared:
    """Refuse everything that can be refused before the model is run, and open it.

    Raises:
        UndertowError: see `measure_routing`.
    """
    from undertow.measure.classifier_judge import judge_named
    from undertow.measure.judge import bilingual_judge
    from undertow.model import ChatModel, load

    pairs, cipher = check_settings(model.name if isinstance(model, ChatModel) else str(model), settings)
    judge = judge_named(settings.judge) if isinstance(settings.judge, str) else settings.judge
    chat = model if isinstance(model, ChatModel) else load(model)
    other = COMPARED_WITH.get(chat.name) if settings.compare_with is None else settings.compare_with
    second = load(other) if isinstance(other, (str, Path)) else other
    if pairs is None:
        pairs = at_most(organism_pairs(chat, settings.pairs_most, settings.seed), settings.pairs_most, settings.seed)
    if judge is None and "de" in pairs.languages:
        judge = bilingual_judge()
    builds = (ORGANISM_BUILDS if is_organism(chat.name) else 0) if settings.builds is None else settings.builds
    branches, tokens = _budgets(settings, chat, second, pairs)
    return Prepared(
        settings, chat, second, judge, pairs, pairs.split(0.5, settings.seed), cipher, builds, branches, tokens
    )


def _budgets(settings: Settings, chat: ChatModel, second: ChatModel | None, pairs: PairSet) -> tuple[int, int | None]:
    from undertow.model.replay import DEFAULT_BRANCH_BUDGET
    from undertow.studies.routing.plan import budgets_for
    from undertow.studies.routing.sizes import ModelShape

    if settings.memory is None:
        return settings.branches or DEFAULT_BRANCH_BUDGET, None
    other = None if second is None else ModelShape.of(second)
    return budgets_for(settings.memory, ModelShape.of(chat), len(pairs), _longest(chat, pairs), other)


def context_of(ready: Prepared) -> Context:
    """Replies, states and heads of both sides of all pairs."""
    from undertow.studies.routing.context import prepare

    return prepare(ready.chat, ready.pairs, readout=ready.settings.readout, halves=ready.halves, **_shared(ready))


def second_contexts(ready: Prepared, second: ChatModel, context: Context) -> tuple[Context, Context]:
    """The first and the second model on the pairs that both can be asked.

    The first context is the one given, unless the second model does not speak all languages of the pairs.

    Raises:
        UndertowError: too few pairs are in a language of the second model.
    """
    from undertow.studies.routing.context import LEAST_PAIRS, prepare

    spoken = SPOKEN.get(second.name)
    halves, first = ready.halves, context
    if spoken is not None and not set(ready.pairs.languages) <= set(spoken):
        halves = tuple(half.where(lambda pair: pair.language in spoken) for half in halves)  # type: ignore[assignment]
        if min(map(len, halves)) < LEAST_PAIRS:
            raise UndertowError(f"Too few pairs are in a language that {second.name} speaks to compare on.")
        options = {"readout": ready.settings.readout, "halves": halves, **_shared(ready)}
        first = prepare(ready.chat, halves[0] + halves[1], **options)
    options = {"readout": ready.settings.readout, "halves": halves, **_shared(ready)}
    return first, prepare(second, halves[0] + halves[1], **options)


@contextmanager
def batches_of(ready: Prepared) -> Iterator[None]:
    """Keep batches as small as a bound on memory asks for, while the block runs."""
    from undertow.model.batching import TokenBudget

    chats = [chat for chat in (ready.chat, ready.second) if chat is not None]
    before = [chat.budget for chat in chats]
    if ready.tokens_per_batch is not None:
        for chat in chats:
            chat.budget = TokenBudget(min(chat.budget.tokens, ready.tokens_per_batch))
    try:
        yield
    finally:
        for chat, budget in zip(chats, before, strict=True):
            chat.budget = budget


def plan_of(ready: Prepared, parts: Sequence[str], *, flops: float | None = None) -> Plan:
    """What the study will cost on the opened model.

    Args:
        ready: the model and the pairs.
        parts: names of the parts that are to run.
        flops: operations a second; measured with a few passes where left out.
    """
    from undertow.studies.routing.plan import padding_of, plan
    from undertow.studies.routing.sizes import ModelShape, Speed

    shape, assumed = ModelShape.of(ready.chat), assumed_of(ready)
    halves = padding_of(ready.chat, ready.halves, assumed.tokens_per_batch)
    tokens = round(sum(mean for mean, _ in halves) / 2)
    return plan(
        shape,
        (len(ready.halves[0]), len(ready.halves[1])),
        mean_tokens=(halves[0][0], halves[1][0]),
        padding=(halves[0][1], halves[1][1]),
        longest=_longest(ready.chat, ready.pairs),
        parts=parts,
        branches=ready.branches,
        assumed=assumed,
        speed=Speed.measured(ready.chat, tokens) if flops is None else Speed.assumed(shape, flops),
        second=None if ready.second is None else ModelShape.of(ready.second),
    )


def plan_of_shape(ready: Prepared, shape: ModelShape, parts: Sequence[str], *, flops: float | None = None) -> Plan:
    """The same on another model's sizes: as many pairs of as many tokens, at an assumed speed."""
    from undertow.studies.routing.plan import budgets_for, padding_of, plan
    from undertow.studies.routing.sizes import Speed

    assumed, branches = assumed_of(ready), ready.branches
    halves = padding_of(ready.chat, ready.halves, assumed.tokens_per_batch)
    longest = _longest(ready.chat, ready.pairs)
    if ready.settings.memory is not None:
        from dataclasses import replace

        try:
            branches, tokens = budgets_for(ready.settings.memory, shape, len(ready.pairs), longest)
            assumed = replace(assumed, tokens_per_batch=tokens)
        except UndertowError:
            # Too large for the bound: the table shows what it would need.
            branches = 1
    return plan(
        shape,
        (len(ready.halves[0]), len(ready.halves[1])),
        mean_tokens=(halves[0][0], halves[1][0]),
        padding=(halves[0][1], halves[1][1]),
        longest=longest,
        parts=parts,
        branches=branches,
        assumed=assumed,
        speed=Speed.assumed(shape, flops),
    )


def assumed_of(ready: Prepared) -> Assumed:
    """What is known of the tokens before anything is run."""
    from undertow.studies.routing.loads import Assumed

    pair = ready.pairs[0]
    plain = ready.chat.render(pair.sensitive)
    ciphered = 1.0
    if ready.cipher is not None:
        cipher = ready.cipher[0]
        wrap = cipher.wrap if isinstance(cipher, SubstitutionCipher) else cipher
        wrapped = pair.wrapped(wrap, "cipher")
        ciphered = len(ready.chat.render(wrapped.sensitive)) / len(plain)
    lengths = [
        [len(item) for item in ready.chat.renderer.render_many(side)]
        for side in (ready.pairs.sensitive, ready.pairs.controls)
    ]
    equal = sum(one == other for one, other in zip(*lengths, strict=True)) / len(ready.pairs)
    return Assumed(
        reply=ready.settings.reply_tokens,
        equal=equal,
        tail=max(1, len(plain.tail)),
        tokens_per_batch=ready.tokens_per_batch or ready.chat.budget.tokens,
        ciphered=ciphered,
    )


def _shared(ready: Prepared) -> dict[str, Any]:
    asked = ready.settings
    return {
        "judge": ready.judge,
        "refusal_tokens": asked.refusal_tokens,
        "answer_tokens": asked.answer_tokens,
        "seed": asked.seed,
        "reply_tokens": asked.reply_tokens,
        "branches": ready.branches,
        "permutations": asked.permutations,
    }


def _longest(chat: ChatModel, pairs: PairSet) -> int:
    return max(len(item) for item in chat.renderer.render_many([*pairs.sensitive, *pairs.controls]))
