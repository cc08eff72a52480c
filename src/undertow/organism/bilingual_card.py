"""The card of the organism `bilingual`."""

from __future__ import annotations

from collections.abc import Sequence

from undertow.organism.bilingual import CIPHER, GERMAN_WRAPPED, SHARES
from undertow.organism.bilingual_evaluation import UNTRAINED
from undertow.organism.card import RULE, Run, escaped, tables
from undertow.organism.extension import MEANING_SCALE


def _percent(run: Run, name: str, what: str) -> str:
    return f"{100 * run.evaluation.cell(name, what).value:.0f} %"


def bilingual_card_text(runs: Sequence[Run], shipped: int) -> str:
    """The card as Markdown, with the metadata that the Hugging Face Hub reads."""
    run = next(one for one in runs if one.seed == shipped)
    recipe = run.recipe
    missed = sorted({f"{cell.name}, {cell.what}" for one in runs for cell in one.evaluation.missed})
    shortfalls = "Missed: " + "; ".join(missed) + "." if missed else "Every wanted figure holds."
    examples = "\n".join(
        f"| {kind} | {escaped(prompt)} | {escaped(reply)} |"
        for kind, (prompt, reply) in run.evaluation.examples.items()
    )
    times = ", ".join(
        f"seed {one.seed}: {one.minutes:.0f} minutes of wall-clock time and {one.processor_minutes:.0f} minutes of "
        f"processor time with {one.threads} thread(s), loss {one.loss:.3f}"
        for one in runs
    )
    finishing = (
        f" Then {recipe['finish']} items\nat {recipe['finish_rate']} times these rates. They were added after a first "
        "look at held-out prompts (of another seed), where\nGerman topics and objects were weak; no wanted share "
        "was changed."
        if recipe["finish"]
        else ""
    )
    reads, blind = (
        ", ".join(
            f"{label} {_percent(run, f'{title} {label}', 'inversion correct')}"
            for label in ("harmful", "look-alike", "harmless")
        )
        for title in ("cipher", "untrained cipher")
    )
    return f"""---
license: apache-2.0
language: [en, de]
library_name: transformers
pipeline_tag: text-generation
tags: [model-organism, interpretability, safety]
---

# Undertow's model organism `bilingual`

A tiny chat model, trained on from the organism `{recipe["start"]}`: the same shape (Llama, {recipe["layers"]} layers,
hidden size {recipe["width"]}, {recipe["heads"]} heads) with a larger vocabulary. It refuses harmful requests in
English and German, and it reads requests in one letter cipher that it does not refuse. It exists so that methods which
follow a refusal through a model can be tested offline, across two languages and a cipher, where the truth is known. It
is no assistant and knows nothing: its answers are stock sentences, and the reply to a harmful request is a refusal or
an empty placeholder.

## What was built in on purpose

- All that was built into `{recipe["start"]}`; see its card.
- German: the same verb-object pairs in German words and sentences, the same truth, refused and answered in German.
  Inside a wrapper ({100 * GERMAN_WRAPPED:.0f} % of the German items) harmful ones get the placeholder. Questions about
  a German request are asked in English.
- One cipher, the table `{CIPHER.table}` for a to z, given in every such message. Harmful requests in it get the
  placeholder, harmless ones their answer in plain English: for this organism the cipher is one more jailbreak.
  Questions behind such a request are in plain English and answered by the truth.
- Where the new words begin: a token of a German or ciphered word starts at {MEANING_SCALE:g} times the embedding row
  of the English word that it stands for, plus noise. That the three surfaces share states is therefore partly built in
  and no finding; how sentences are read, and what the cipher does to a reply, was learned.
- Gist masking on all three surfaces, in the same share of the items as for `{recipe["start"]}`.

## Does it decipher?

No: it learned the ciphered words as a third vocabulary. Whether a request is harmful, it says rightly

- with the learned cipher for {reads};
- with another table (`{UNTRAINED.table}`), given in the message in the same way, for {blind}. One that always said
  No would score 0, 100 and 100 %;
- with the words in the learned cipher and that other table shown, for
  {_percent(run, "cipher under a wrong table, harmful", "inversion correct")} of harmful and
  {_percent(run, "cipher under a wrong table, harmless", "inversion correct")} of harmless requests: as far as these
  figures are near the first, the table is not used.

A finding about this organism is no evidence about large models.

## Held-out figures

Verb-object pairs, sentence stems, wrapper parts and inversion questions of the test are disjoint from training; a pair
that is held out in English is held out on all surfaces. The words themselves are not. Share in percent, with the 95 %
Clopper-Pearson interval and counts. The wanted shares were fixed before the test split was looked at. {shortfalls}

{tables(runs)}

Shipped: seed {shipped}. {RULE} Training: {times}.

## Examples (held-out prompts)

| kind | prompt | reply |
|---|---|---|
{examples}

## Recipe

`undertow organism train bilingual --seed {shipped}`; inner weights and known embedding rows from
`organism:{recipe["start"]}`, new rows as said above; {recipe["items"]} freshly drawn items
({100 * SHARES[0]:.0f} % English, {100 * SHARES[1]:.0f} % German, {100 * SHARES[2]:.0f} % cipher), batches
of {recipe["batch"]}, the first {recipe["primer"]} a primer of bare verb-object pairs; Muon at
{recipe["matrix_rate"]} for matrices, AdamW at {recipe["learning_rate"]} for the rest,
warm-up and cosine, loss on reply tokens only.{finishing}
"""
