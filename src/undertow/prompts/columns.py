"""Which column of a table holds what, guessed from the names that real files in this field have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from undertow.errors import PromptFileError
from undertow.prompts.labels import is_missing, reads_as_label

PROMPT_COLUMNS: tuple[tuple[str, ...], ...] = (
    (
        "prompt", "instruction", "question", "goal", "bad_q", "turns", "messages", "conversation", "conversations",
        "user_prompt", "forbidden_prompt", "query", "request", "user_input",
    ),
    ("behavior", "behaviour"),
    ("text", "content", "input", "sentence"),
)  # fmt: skip
"""Names of prompt columns; an earlier group wins over a later one, two of one group are equally likely."""

LABEL_COLUMNS: tuple[str, ...] = (
    "harmful", "is_harmful", "prompt_harm_label", "harm_label", "prompt_label", "unsafe", "is_unsafe", "harmless",
    "is_harmless", "is_benign",
)  # fmt: skip
WEAK_LABEL_COLUMNS: tuple[str, ...] = ("label", "labels", "is_safe", "safe", "category", "type")
"""Names that may mean something else: a label only where every value seen reads as one."""

INVERTED_COLUMNS: frozenset[str] = frozenset(
    {"harmless", "is_harmless", "benign", "is_benign", "safe", "is_safe", "unharmful", "is_unharmful"}
)
CATEGORY_COLUMNS: tuple[str, ...] = (
    "category", "risk_category", "harm_category", "semanticcategory", "semantic_category", "functionalcategory",
    "subcategory", "risk_area", "topic", "type",
)  # fmt: skip
ID_COLUMNS: tuple[str, ...] = (
    "id", "prompt_id", "question_id", "behaviorid", "behavior_id", "conversation_id", "conv_id", "uid", "uuid", "index",
    "idx",
)  # fmt: skip
WRAPPER_COLUMNS: tuple[str, ...] = ("wrapper", "jailbreak", "attack", "prompt_style")
STYLE_COLUMNS: tuple[str, ...] = ("style",)
LANGUAGE_COLUMNS: tuple[str, ...] = ("language", "lang")
NO_COLUMN = "none"
"""Given as a column's name: use no column for this, guess none."""


@dataclass(frozen=True)
class Columns:
    """The columns to read, by their names in the file; None where there is none.

    Attributes:
        prompt: text or conversation.
        labels: harmfulness; several must agree in every row.
        category, wrapper, style, language, id: the further fields of a Prompt.
        unread: the columns that are left alone.
    """

    prompt: str
    labels: tuple[str, ...] = ()
    category: str | None = None
    wrapper: str | None = None
    style: str | None = None
    language: str | None = None
    id: str | None = None
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class ColumnChoice:
    """Names that the user gives instead of the guess; None leaves the guess, "none" means no column."""

    prompt: str | None = None
    label: str | None = None
    category: str | None = None
    id: str | None = None

    @property
    def names(self) -> set[str]:
        """The names given, in lower case."""
        given = (self.prompt, self.label, self.category, self.id)
        return {normalise_name(name) for name in given if name is not None}


def normalise_name(name: str) -> str:
    """A column name as names are compared: lower case, outer blanks gone, inner blanks and hyphens as underscores."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def is_known(name: str) -> bool:
    """Whether a column of this name may be read without being named by the user."""
    known = {*sum(PROMPT_COLUMNS, ()), *LABEL_COLUMNS, *WEAK_LABEL_COLUMNS, *CATEGORY_COLUMNS, *ID_COLUMNS}
    return normalise_name(name) in known | {*WRAPPER_COLUMNS, *STYLE_COLUMNS, *LANGUAGE_COLUMNS}


def check_header(names: Sequence[str], source: str, where: str) -> None:
    """Refuses a header that names one column twice, capitals aside.

    Raises:
        PromptFileError: naming the column.
    """
    seen: set[str] = set()
    for name in names:
        key = normalise_name(name)
        if key and key in seen:
            raise PromptFileError(f"{source}, {where}: the column {name.strip()!r} is there twice; rename one of them.")
        seen.add(key)


def guess_columns(
    names: Sequence[str], rows: Sequence[Mapping[str, Any]], choice: ColumnChoice, source: str
) -> Columns:
    """Decides which columns to read.

    Args:
        names: the columns, as the file spells them.
        rows: the first rows (or all), to see what the values look like.
        choice: what the user has named.
        source: the file's name, for the message.

    Raises:
        PromptFileError: no prompt column, two equally likely ones, or a named column that is not there.
    """
    spelled = {normalise_name(name): name for name in names}

    def named(wanted: str | None, flag: str) -> str | None:
        if wanted is None or _means_none(wanted, spelled):
            return None
        if wanted in names:
            return wanted
        if normalise_name(wanted) not in spelled:
            raise PromptFileError(
                f"{source}: there is no column {wanted!r} for {flag}; the columns are {_listed(names)}."
            )
        return spelled[normalise_name(wanted)]

    def first(candidates: Sequence[str], taken: set[str]) -> str | None:
        return next((spelled[name] for name in candidates if name in spelled and spelled[name] not in taken), None)

    prompt = named(choice.prompt, "--prompt-column") or _guess_prompt(spelled, rows, names, source)
    labels: tuple[str, ...] = ()
    category = named(choice.category, "--category-column")
    if choice.label is None:
        labels = _guess_labels(spelled, rows, {prompt, category})
    else:
        given = named(choice.label, "--label-column")
        labels = () if given is None else (given,)
    if choice.category is None:
        category = first(CATEGORY_COLUMNS, {prompt, *labels})
    identifier = named(choice.id, "--id-column")
    if choice.id is None:
        identifier = first(ID_COLUMNS, {prompt, *labels})
    wrapper, style, language = (
        first(candidates, {prompt, *labels}) for candidates in (WRAPPER_COLUMNS, STYLE_COLUMNS, LANGUAGE_COLUMNS)
    )
    read = {prompt, *labels, category, wrapper, style, language, identifier}
    unread = tuple(name for name in names if name not in read)
    return Columns(prompt, labels, category, wrapper, style, language, identifier, unread)


def _means_none(wanted: str, spelled: Mapping[str, str]) -> bool:
    return wanted.lower() == NO_COLUMN and NO_COLUMN not in spelled


def _guess_prompt(
    spelled: Mapping[str, str], rows: Sequence[Mapping[str, Any]], names: Sequence[str], source: str
) -> str:
    for group in PROMPT_COLUMNS:
        present = [spelled[name] for name in group if name in spelled]
        filled = [name for name in present if any(not is_missing(row.get(name)) for row in rows)]
        present = filled or present
        if len(present) == 1:
            return present[0]
        if present:
            raise PromptFileError(
                f"{source}: the columns {_listed(present)} may each hold the prompts; "
                "say which with --prompt-column NAME."
            )
    raise PromptFileError(
        f"{source}: none of the columns {_listed(names)} is known to hold prompts; say which with --prompt-column NAME."
    )


def _guess_labels(
    spelled: Mapping[str, str], rows: Sequence[Mapping[str, Any]], taken: set[str | None]
) -> tuple[str, ...]:
    strong = [spelled[name] for name in LABEL_COLUMNS if name in spelled and spelled[name] not in taken]
    labels = list(strong)
    for name in WEAK_LABEL_COLUMNS:
        column = spelled.get(name)
        if column is None or column in taken:
            continue
        if name in ("is_safe", "safe") and not {"response", "responses", "completion"}.isdisjoint(spelled):
            continue  # In files of prompts with replies this judges the reply.
        values = [row[column] for row in rows if not is_missing(row.get(column))]
        if values and all(reads_as_label(value) for value in values):
            if name in ("category", "type") and not _has_words(values):
                continue  # Numbers in a category column count categories.
            labels.append(column)
        elif values and name == "label" and not labels:
            labels.append(column)  # Nothing else says it, so a value that is no label is refused where it stands.
    return tuple(labels)


def _has_words(values: Sequence[Any]) -> bool:
    return any(isinstance(value, str) and any(letter.isalpha() for letter in value) for value in values)


def _listed(names: Sequence[str], most: int = 12) -> str:
    listed = ", ".join(repr(name if len(name) <= 40 else f"{name[:40]}...") for name in names[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"
