"""A guard as a stock sequence classifier that transformers and vLLM load as they are."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from undertow.errors import GuardError
from undertow.guard.export.card import classifier_card
from undertow.guard.export.checkpoint import (
    LABELS,
    RECORD,
    build_classifier,
    check_exportable,
    read_log_odds,
    write_checkpoint,
)
from undertow.guard.export.head import Agreement, fit_head
from undertow.guard.export.template import cut_template, prove_template, trial_prompts
from undertow.guard.rules.normed import NormedRule
from undertow.prompts import Prompt, PromptSet

if TYPE_CHECKING:
    from undertow.guard.guard import LatentGuard

GUARD_FOLDER = "guard"
SCHEMA = 1

_CHECKED_PROMPTS = 64
_TOLERANCE = {"torch.float64": 1e-4, "torch.float32": 1e-4, "torch.bfloat16": 0.03, "torch.float16": 0.01}
"""Largest difference of a probability that is let pass, by the model's type."""


@dataclass(frozen=True)
class ClassifierExport:
    """What was written.

    Attributes:
        path: the checkpoint's folder.
        guard: the guard that the checkpoint equals, saved in its folder `guard`.
        architecture: the stock class.
        blocks: how many blocks of the model it has.
        threshold: probability of "harmful" from which the guard flags.
        checked: prompts on which it was compared with the guard after writing.
        largest_difference: of a probability, among these.
        differing_edges: trial messages with blanks at an edge for which the cut template gives other tokens.
        agreement: with the guard that was given, where a head was fitted for it; None where the head is that guard.
        notes: what should be known, in sentences.
    """

    path: Path
    guard: LatentGuard
    architecture: str
    blocks: int
    threshold: float
    checked: int
    largest_difference: float
    differing_edges: int
    agreement: Agreement | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "path": str(self.path),
            "architecture": self.architecture,
            "blocks": self.blocks,
            "labels": list(LABELS.values()),
            "rule": self.guard.rule,
            "state": self.guard.harmfulness.rule.states[0],
            "fingerprint": self.guard.fingerprint,
            "threshold": self.threshold,
            "checked": self.checked,
            "largest_difference": self.largest_difference,
            "agreement": None if self.agreement is None else self.agreement.to_dict(),
            "notes": list(self.notes),
        }


def export_classifier(
    guard: LatentGuard,
    path: str | Path,
    harmful: Any = None,
    harmless: Any = None,
    *,
    overwrite: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> ClassifierExport:
    """Write the first blocks of a guard's model, its final norm and a score head as a stock classifier.

    The classifier's head sees the state after the norm, so it can equal no rule on the state before it. A guard of the
    rule `normed` is exported as it is; for any other such a guard is fitted on the prompts given, and its agreement
    with the other's decisions measured. What was written is loaded in plain transformers and compared before it is
    put in its place.

    Args:
        guard: the guard.
        path: folder to write; replaced as a whole.
        harmful, harmless: prompts as for `LatentGuard.fit`, needed unless the guard's rule is `normed`, and then not
            used.
        overwrite: whether an earlier export may be replaced.
        seed: of the split, where a head is fitted.
        progress: whether bars are shown.

    Raises:
        GuardError: prompts are needed, the model has no stock classifier, its weights are quantised, offloaded or
            adapted, its template cannot be cut at t_inst, the place is taken, or the checkpoint does not agree.
        PromptFileError: a prompt file cannot be read.
    """
    from safetensors import SafetensorError

    target = Path(path).expanduser().absolute()
    _check_target(target, overwrite)
    model = guard.model
    check_exportable(model, max(NormedRule.least_state, *guard.harmfulness.rule.states))
    template = cut_template(model)
    agreement: Agreement | None = None
    notes = list(guard.mismatches)
    if guard.rule != NormedRule.name:
        if harmful is None or harmless is None:
            raise GuardError(
                f"The guard's rule '{guard.rule}' reads the state before the norm, which a classifier cannot: give "
                "--harmful and --harmless (or --builtin) to fit a head for it, or fit the guard with --rule normed."
            )
        guard, agreement, found = fit_head(guard, harmful, harmless, seed=seed, progress=progress)
        notes.extend(found)
    elif harmful is not None or harmless is not None:
        notes.append("The prompts given were not used: a guard of the rule 'normed' is exported as it is.")
    curve, state = guard.harmfulness.curve, guard.harmfulness.rule.states[0]
    check_exportable(model, state)
    if curve.knots or curve.intercept != 0 or curve.slope <= 0:
        raise GuardError(
            "The guard's probability is not a logistic curve through 0, which is all that a classifier can hold: fit "
            "it with --rule normed and method='platt' on prompts that it tells apart."
        )
    threshold = float(curve.probability(np.array([guard.threshold]))[0])
    record = {
        "schema": SCHEMA,
        "guard": guard.fingerprint,
        "model": model.identity.fingerprint,
        "model_name": model.name,
        "state": state,
        "slope": curve.slope,
        "score_threshold": guard.threshold,
        "probability_threshold": threshold,
        "thinking": model.thinking,
    }
    weight = guard.harmfulness.rule.tensors()["weight"][0].astype(np.float64) * curve.slope
    classifier = build_classifier(model, state, weight, record)
    temporary = _temporary(target)
    try:
        write_checkpoint(classifier, model, template, temporary)
        guard.save_pretrained(temporary / GUARD_FOLDER)
        edges, checked, largest = _verify(guard, temporary)
        if edges:
            notes.append(
                f"For {edges} of the trial messages with blanks at an edge the cut template gives other tokens than "
                "the whole one; strip messages before sending them."
            )
        export = ClassifierExport(
            target, guard, type(classifier).__name__, state, threshold, checked, largest, edges, agreement, tuple(notes)
        )
        card = classifier_card(export.to_dict(), model.name, str(model.dtype).removeprefix("torch."))
        (temporary / "README.md").write_text(card, encoding="utf-8")
        _put_in_place(temporary, target)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise GuardError(f"The classifier cannot be written to {path}: {reason}.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return export


def read_record(path: str | Path) -> dict[str, Any]:
    """What an exported classifier says about itself in config.json.

    Raises:
        GuardError: there is no such export, or it is from a newer version.
    """
    file = Path(path) / "config.json"
    try:
        record = json.loads(file.read_text(encoding="utf-8")).get(RECORD)
    except (OSError, ValueError, AttributeError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("schema"), int):
        raise GuardError(
            f"{path} is not a classifier that Undertow exported; make one with undertow export GUARD --to "
            "sequence-classifier."
        )
    if record["schema"] > SCHEMA:
        raise GuardError(f"The export at {path} is from a newer version; update undertow to read it.")
    wanted = ("guard", "model", "slope", "score_threshold")
    if any(name not in record for name in wanted) or not record["slope"] > 0:
        raise GuardError(f"The record in {file} lacks or garbles a value; export the guard again.")
    return record


def _verify(guard: LatentGuard, folder: Path) -> tuple[int, int, float]:
    """Trial messages that differ at their edges, prompts compared, and the largest difference of a probability."""
    from transformers import AutoTokenizer

    model = guard.model
    builtin = PromptSet.builtin()
    prompts = list(builtin[:: max(1, len(builtin) // _CHECKED_PROMPTS)])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts += trial_prompts()
    _, edges = prove_template(model, tokenizer, prompts)
    prompts = [prompt for prompt in prompts if _renders_alike(guard, tokenizer, prompt)]
    found = read_log_odds(folder, prompts, model.device, model.dtype)
    curve = guard.harmfulness.curve
    scores = guard.score(prompts)
    differences = np.abs(_sigmoid(found) - curve.probability(scores))
    largest = float(differences.max())
    precise = str(model.dtype) in ("torch.float32", "torch.float64")
    odds = float(np.abs(found - curve.slope * scores).max())
    limit = _TOLERANCE.get(str(model.dtype), 0.03)
    if not largest <= limit or (precise and not odds <= 1e-3 * (1 + float(np.abs(found).max()))):
        raise GuardError(
            f"The checkpoint does not agree with the guard (probabilities differ by up to {largest:.2g}, with "
            f"{limit:g} allowed), so it was not kept; please report the architecture {model.model.config.model_type}."
        )
    return edges, len(prompts), largest


def _renders_alike(guard: LatentGuard, tokenizer: Any, prompt: Prompt) -> bool:
    return prove_template(guard.model, tokenizer, [prompt]) == (1, 0)


def _sigmoid(values: Any) -> Any:
    from scipy.special import expit

    return expit(values)


def _check_target(target: Path, overwrite: bool) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise GuardError(f"{target} is a file, and a classifier is a folder; name a new folder.")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not overwrite:
        raise GuardError(f"{target} exists already; name another folder or use overwrite.")
    read_record(target)


def _temporary(target: Path) -> Path:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    except OSError as error:
        raise GuardError(f"The classifier cannot be written to {target}: {error.strerror}.") from None


def _put_in_place(temporary: Path, target: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(temporary, 0o777 & ~mask)
    for file in temporary.rglob("*"):
        # Some writers make files that only their owner may read.
        file.chmod((0o777 if file.is_dir() else 0o666) & ~mask)
    aside: Path | None = None
    if target.is_dir() and any(target.iterdir()):
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.replaced-", dir=target.parent))
        target.rename(aside / target.name)
    try:
        os.replace(temporary, target)
    except OSError:
        if aside is not None:
            (aside / target.name).rename(target)
        raise
    finally:
        if aside is not None and target.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
