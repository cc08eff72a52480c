"""The first minute of the page: what came out, what did not, in plain words."""

from __future__ import annotations

from undertow.measure.finding import Finding
from undertow.measure.statistics import Estimate
from undertow.report.cells import finite, listed, share_text
from undertow.report.html import Headline
from undertow.report.tables import percent, percent_interval, written
from undertow.studies.beliefs.result import Attack, BeliefsResult

RATE = 0.02
_AFTER = {
    "finetuning": "Finetuned to comply",
    "abliteration": "With the refusal direction cut out of its weights",
}
PARTS = {
    "separation": "separation",
    "belief_map": "the belief map",
    "directions": "directions",
    "sweep": "steering",
    "inversion": "reply inversion",
    "jailbreaks": "jailbreaks",
    "guards": "the guards",
    "attacks": "attacks on the weights",
    "over_refusal": "releasing over-refused prompts",
}


def summary(result: BeliefsResult) -> str:
    """A few paragraphs for a reader who reads nothing else."""
    parts = [
        _doing(result),
        " ".join(filter(None, (_knowing(result), _apart(result)))),
        _using(result),
        _failed(result),
    ]
    return "\n\n".join(part for part in parts if part)


def headlines(result: BeliefsResult) -> list[Headline]:
    """The few numbers that carry the summary; the tone of each is the verdict of a finding, where one judges it."""
    found = []
    side = _side(result, "accepted harmful")
    if side is not None:
        found.append(
            _headline(
                result, side, "of harmful requests that the model answers, it still reads as harmful", "separation"
            )
        )
    best = _best_recall(result)
    if best is not None:
        found.append(
            _headline(
                result, best, "of answered harmful requests flagged by the best guard, at 2 % false positives", "guard"
            )
        )
    published = _recall(result, "centroid")
    if published is not None:
        found.append(_headline(result, published, "flagged by the published rule, same prompts", ""))
    value = (
        None
        if result.inversion is None or result.inversion.dissociation is None
        else result.inversion.dissociation.value
    )
    if value is not None and finite(value) is not None:
        label = "nats more of judgement moved by harmfulness than by refusal, where both move refusal equally"
        note = f"{written(value.low)} to {written(value.high)}, n = {value.n}"
        found.insert(
            1, Headline(written(value.value), label, note, _tone(result.finding("beliefs.double_dissociation")))
        )
    return found


def _headline(result: BeliefsResult, found: Estimate, label: str, about: str) -> Headline:
    judged = next((one for one in result.findings if about and about in one.id and one.value == found.value), None)
    note = f"{percent_interval(found.low, found.high)}, n = {found.n}"
    return Headline(percent(found.value), label, note, _tone(judged))


def _tone(finding: Finding | None) -> str:
    if finding is None:
        return ""
    return {"reproduced": "good", "not reproduced": "bad"}.get(finding.verdict, "")


def _pooled(result: BeliefsResult, harmful: bool, wrapped: bool) -> float | None:
    """Share refused over all groups of that truth, weighted by their sizes."""
    sorting = result.sorting
    chosen = [
        one
        for title, one in sorting.refused.items()
        if sorting.harmful.get(title) is harmful and (", " in title) is wrapped and finite(one) is not None
    ]
    total = sum(one.n for one in chosen)
    return sum(one.value * one.n for one in chosen) / total if total else None


def _doing(result: BeliefsResult) -> str:
    name = result.identity.name
    bare, tricked = _pooled(result, True, False), _pooled(result, True, True)
    sentences = []
    if bare is not None:
        sentences.append(f"Asked plainly, {name} refuses {percent(bare)} of harmful requests.")
    if tricked is not None:
        sentences.append(f"In jailbreak wrappers it answers {percent(1 - tricked)} of them.")
    odd = result.sorting.counts.get("refused harmless", 0)
    if odd:
        sentences.append(
            f"It also refuses {odd:,} harmless requests of the {sum(result.sorting.counts.values()):,} tested."
        )
    return " ".join(sentences)


def _side(result: BeliefsResult, kind: str) -> Estimate | None:
    if result.separation is None:
        return None
    return finite(result.separation.sides.get("t_inst", {}).get(kind))


def _knowing(result: BeliefsResult) -> str:
    fooled, over = _side(result, "accepted harmful"), _side(result, "refused harmless")
    sentences = []
    if fooled is not None:
        sentences.append(
            f"What it believes is another matter: inside the model, {percent(fooled.value)} of the harmful requests "
            "that it answers still look harmful to it"
            + (f", and {percent(1 - over.value)} of the harmless ones that it refuses look harmless." if over else ".")
        )
    return " ".join(sentences)


def _apart(result: BeliefsResult) -> str:
    inversion = result.inversion
    value = None if inversion is None or inversion.dissociation is None else finite(inversion.dissociation.value)
    if value is None:
        return ""
    if value.low > 0:
        return (
            "The two can be pushed apart: turning up harmfulness changes what the model says of a request more than "
            "turning up refusal does, at strengths at which both move it as far toward refusing."
        )
    return "Pushing on the two separately did not show them to be different things here."


def _recall(result: BeliefsResult, key: str) -> Estimate | None:
    row = None if result.guards is None else result.guards.row(key)
    return None if row is None else finite(row.recall.get(RATE))


def _best_recall(result: BeliefsResult) -> Estimate | None:
    return None if result.guards is None else _recall(result, result.guards.best)


def _using(result: BeliefsResult) -> str:
    sentences = []
    best, published = _best_recall(result), _recall(result, "centroid")
    if best is not None:
        sentences.append(
            f"A Latent Guard that reads this belief flags {percent(best.value)} of the answered harmful requests "
            "while it flags 2 % of harmless ones"
            + (f"; the published rule flags {percent(published.value)}." if published is not None else ".")
        )
    sentences += [sentence for attack in result.attacks if (sentence := attacked(attack))]
    release = result.over_refusal
    if release is not None and finite(release.released) is not None:
        sentences.append(
            f"Released by the guard, {share_text(release.released)} of the harmless requests refused before are "
            f"answered, at the price of {share_text(release.let_through)} of the refused harmful ones."
        )
    return " ".join(sentences)


def attacked(attack: Attack) -> str:
    """One sentence on an attack; empty where nothing was compared."""
    from undertow.report.beliefs.attacking import refusals_and_recall

    before, after, recall_before, recall_after = refusals_and_recall(attack.comparison)
    if before is None or after is None:
        return ""
    text = (
        f"{_AFTER.get(attack.key, f'After the attack {attack.title!r}')}, it refuses {share_text(after)} of plain "
        f"harmful requests, {share_text(before)} before"
    )
    if recall_before is not None and recall_after is not None:
        text += (
            f"; the best guard, unchanged, flags {share_text(recall_after)} of harmful requests, "
            f"{share_text(recall_before)} before"
        )
    return text + "."


def _failed(result: BeliefsResult) -> str:
    missed = [one for one in result.findings if one.verdict == "not reproduced"]
    judged = [one for one in result.findings if one.verdict != "not tested"]
    sentences = []
    if judged:
        if missed:
            # What follows the first full stop speaks of the control.
            claims = "; ".join(f"\u201c{one.claim.split('. ')[0].rstrip('.')}\u201d" for one in missed)
            sentences.append(f"Not everything held: {len(missed)} of {len(judged)} claims did not reproduce, {claims}.")
        else:
            sentences.append(f"All {len(judged)} claims that could be judged were reproduced.")
    untested = sum(one.verdict == "not tested" for one in result.findings)
    if untested:
        sentences.append(f"{untested} could not be tested.")
    skipped = [PARTS.get(name, name.replace("_", " ")) for name in result.skipped]
    if skipped:
        sentences.append(f"Not measured: {listed(skipped)}; the reason stands in each part.")
    return " ".join(sentences)
