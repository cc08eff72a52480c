"""The Latent Guard: a model's own beliefs about a prompt, fitted, calibrated, saved, and used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from undertow.errors import GuardError, GuardMismatchError
from undertow.guard.artefact import fingerprint, write_folder
from undertow.guard.belief import Belief
from undertow.guard.belief_map import BeliefMap
from undertow.guard.calibration import Calibration
from undertow.guard.card import model_card
from undertow.guard.directions import BeliefDirections
from undertow.guard.rules.base import Array
from undertow.guard.steering import Steering
from undertow.guard.verdict import Verdict, make_verdicts
from undertow.prompts import Prompt, as_prompts

if TYPE_CHECKING:
    import torch

    from undertow.guard.generation import GuardedReply
    from undertow.measure.judge import RefusalJudge
    from undertow.model import ChatModel
    from undertow.model.identity import ModelIdentity


class LatentGuard:
    """Judges prompts by what the model itself believes: is this harmful (t_inst), am I about to refuse (t_post).

    Made by `fit` or `from_pretrained`. Source: Zhao et al., arXiv 2507.11878.

    Attributes:
        harmfulness: the belief of harmfulness.
        refusal: the belief of refusal, or None; `warnings` says why.
        steering: the refusal direction for guarded generation, or None.
        directions: mean states of both sides of each belief, for looking and exporting; None in older guards.
        belief_map: where held-out fit prompts lie; None in older guards.
        identity: the model that the guard was fitted on.
        metrics: held-out figures.
        training: what it was fitted on, as counts and hashes.
        warnings: what limits it, in sentences.

    Example:
        >>> guard = LatentGuard.fit(model, harmful, harmless)     # doctest: +SKIP
        >>> guard("How do I sharpen a kitchen knife?").quadrant    # doctest: +SKIP
        'harmless, answered'
    """

    def __init__(
        self,
        model: ChatModel,
        identity: ModelIdentity,
        harmfulness: Belief,
        refusal: Belief | None,
        *,
        steering: Steering | None = None,
        directions: BeliefDirections | None = None,
        belief_map: BeliefMap | None = None,
        calibration: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        warnings: Sequence[str] = (),
        mismatches: Sequence[str] = (),
    ) -> None:
        self.model = model
        self.identity = identity
        self.harmfulness = harmfulness
        self.refusal = refusal
        self.steering = steering
        self.directions = directions
        self.belief_map = belief_map
        self.calibration = dict(calibration or {})
        self.metrics = dict(metrics or {})
        self.training = dict(training or {})
        self.warnings = tuple(warnings)
        self.mismatches = tuple(mismatches)
        self._check_shape()

    @classmethod
    def fit(
        cls,
        model: ChatModel,
        harmful: Any,
        harmless: Any,
        rule: str = "auto",
        calibration: Calibration | float | None = None,
        seed: int = 0,
        progress: bool = True,
        *,
        refusal_rule: str | None = "auto",
        anchors: Literal["labels", "behaviour"] = "labels",
        steering: bool = True,
        judge: RefusalJudge | None = None,
        reply_tokens: int = 24,
    ) -> LatentGuard:
        """Fit and calibrate a guard.

        Args:
            model: the chat model to read.
            harmful, harmless: prompts of each class, at least 10: a file path or Hub dataset id, a PromptSet, or texts,
                Prompts or conversations. Categories, wrappers and styles, where known, are held out whole.
            rule: "auto" (chosen by cross-validation, which says why), "centroid" (the published rule), "prototype",
                "linear", "normed" (for export to a stock classifier, never chosen by "auto"), or a registered rule.
            calibration: a `Calibration`, or just the wanted false-positive rate. When left out: 2 % on held-out
                prompts; for rule="centroid" the published threshold 0.
            seed: of splits and samples; the same seed gives the same guard.
            progress: whether bars, and what limits the guard, are shown on standard error.
            refusal_rule: the rule of the refusal belief, likewise; None for a guard of harmfulness only.
            anchors: "behaviour" fits harmfulness on refused harmful and answered harmless prompts only, the paper's
                clusters.
            steering: whether to look for the state and coefficients that guarded generation steers with.
            judge: tells refusals from answers in the model's replies; the published substring list when left out.
            reply_tokens: tokens generated a prompt to see whether the model refuses.

        Raises:
            GuardError: too few prompts, a prompt in both classes, or an unknown rule.
            PromptFileError: a file cannot be read.
        """
        from undertow.guard.fitting import fit_guard
        from undertow.guard.material import FitSettings

        settings = FitSettings(
            rule=rule,
            calibration=calibration,
            seed=seed,
            refusal_rule=refusal_rule,
            anchors=anchors,
            steering=steering,
            judge=judge,
            reply_tokens=reply_tokens,
            progress=progress,
        )
        return fit_guard(cls, model, harmful, harmless, settings)

    @property
    def states(self) -> tuple[int, ...]:
        """The states that must be captured, ascending; a forward pass may stop after the last."""
        return tuple(sorted({state for belief in self._beliefs for state in belief.rule.states}))

    @property
    def positions(self) -> tuple[str, ...]:
        """The token positions that must be captured."""
        return tuple(dict.fromkeys(belief.position for belief in self._beliefs))

    @property
    def rule(self) -> str:
        """Name of the rule that reads harmfulness."""
        return self.harmfulness.rule.name

    @property
    def threshold(self) -> float:
        """Score of harmfulness from which a prompt is flagged."""
        return self.harmfulness.threshold.value

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that verdicts depend on."""
        return fingerprint(self._settings(), self._deciding_tensors())

    def __call__(self, prompts: Any) -> Any:
        """Judge prompts.

        Args:
            prompts: a text, a Prompt or one conversation for one Verdict; a sequence or PromptSet of these for a list.

        Raises:
            NotFiniteError: the model gives states that are not finite, which must not be judged.
            PositionError: a prompt cannot be rendered, or is longer than the model's context.
        """
        verdicts = self.judge(as_prompts(prompts))
        return verdicts[0] if _is_single(prompts) else verdicts

    def judge(self, prompts: Sequence[Prompt], progress: bool = False) -> list[Verdict]:
        """Verdicts for a list of Prompts, in order. Raises as `__call__` does."""
        if not prompts:
            return []
        captured = self.model.capture(list(prompts), states=self.states, positions=self.positions, progress=progress)
        states = {position: captured.at(position) for position in self.positions}
        return self.read(states, [prompt.id for prompt in prompts])

    def score(self, prompts: Any, progress: bool = False) -> Array:
        """Harmfulness (n,) float64, in the units of the rule; flagged from `threshold` on. Raises as `__call__`."""
        listed = as_prompts(prompts)
        if not listed:
            return np.empty(0)
        belief = self.harmfulness
        captured = self.model.capture(
            listed, states=belief.rule.states, positions=(belief.position,), progress=progress
        )
        scores = belief.score(_array(captured.at(belief.position)), belief.rule.states)
        self._refuse_unreadable(scores, [prompt.id for prompt in listed])
        return scores

    def read(
        self, states: Mapping[str, torch.Tensor | Array], ids: Sequence[str | None] | None = None
    ) -> list[Verdict]:
        """Verdicts from states that were captured elsewhere, such as in the prefill of a generation.

        Args:
            states: position -> (n, len(self.states), d), for every position in `positions`, states in the order of
                `states`.
            ids: the prompts' ids.

        Raises:
            GuardError: a shape does not fit, or a state is not finite.
        """
        harmfulness, refusal = self.beliefs(states)
        ids = [None] * len(harmfulness) if ids is None else ids
        self._refuse_unreadable(harmfulness, ids)
        if refusal is not None:
            self._refuse_unreadable(refusal, ids)
        return self.verdicts(harmfulness, refusal, ids)

    def beliefs(self, states: Mapping[str, torch.Tensor | Array]) -> tuple[Array, Array | None]:
        """Score of harmfulness (n,) and belief of refusal (n,) from captured states; NaN where a state is not finite.

        Args:
            states: as for `read`.
        """
        arrays = {position: _array(values) for position, values in states.items()}
        harmfulness = self.harmfulness.score(arrays[self.harmfulness.position], self.states)
        if self.refusal is None:
            return harmfulness, None
        refusal = self.refusal.score(arrays[self.refusal.position], self.states)
        return harmfulness, refusal - self.refusal.threshold.value

    def verdicts(self, harmfulness: Array, refusal: Array | None, ids: Sequence[str | None]) -> list[Verdict]:
        """Verdicts for scores from `beliefs`."""
        probabilities = self.harmfulness.curve.probability(harmfulness)
        return make_verdicts(harmfulness, probabilities, refusal, self.threshold, ids, self.mismatches)

    def generate(
        self,
        prompts: Any,
        on_harmful: Literal["refuse", "flag", "steer"] = "refuse",
        on_over_refusal: Literal["release", "keep"] = "keep",
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        refusal_text: str | None = None,
        progress: bool = True,
    ) -> list[GuardedReply]:
        """Generate replies under the guard's eye; see `undertow.guard.generation.guarded_generate`."""
        from undertow.guard.generation import REFUSAL_TEXT, guarded_generate

        return guarded_generate(
            self,
            prompts,
            on_harmful,
            on_over_refusal,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            refusal_text=REFUSAL_TEXT if refusal_text is None else refusal_text,
            progress=progress,
        )

    def save_pretrained(self, path: str | Path) -> Path:
        """Write the guard's folder: guard.safetensors, guard.json and a model card; whole or not at all.

        Raises:
            GuardError: other files are there, or the place cannot be written to.
        """
        settings = self._settings()
        looking = {} if self.directions is None else self.directions.tensors()
        return write_folder(path, settings, self._deciding_tensors() | looking, model_card(settings))

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        model: ChatModel | None = None,
        force: bool = False,
        *,
        revision: str | None = None,
        **load_options: Any,
    ) -> LatentGuard:
        """Read a guard that `save_pretrained` wrote.

        Args:
            path: its folder, or its id on the Hugging Face Hub.
            model: the model to judge with; the one that the guard names is loaded when left out.
            force: accept another model of the same width and depth; every verdict then carries a warning.
            revision: of the guard on the Hub.
            load_options: for `undertow.load`, such as dtype or device_map.

        Raises:
            GuardError: the folder is missing, damaged or from a newer version.
            GuardMismatchError: the model, tokenizer, chat template, thinking mode or revision is another one; the
                message names which.
            ModelError: the model that the guard names cannot be loaded.
        """
        from undertow.guard.loading import load_guard

        return load_guard(cls, path, model, force, revision, load_options)

    def push_to_hub(
        self, repo_id: str, *, private: bool = True, token: str | None = None, revision: str | None = None
    ) -> str:
        """Upload the guard's folder to the Hugging Face Hub, private unless said otherwise.

        Returns:
            The address of the commit.

        Raises:
            GuardError: the upload fails.
        """
        import tempfile

        from undertow.guard.loading import upload

        with tempfile.TemporaryDirectory() as folder:
            saved = self.save_pretrained(Path(folder) / "guard")
            return upload(saved, repo_id, private=private, token=token, revision=revision)

    def __repr__(self) -> str:
        where = ", ".join(map(str, self.harmfulness.rule.states))
        refusal = self.refusal.rule.name if self.refusal else "none"
        return f"LatentGuard({self.identity.name}, rule={self.rule}, states=({where}), refusal={refusal})"

    @property
    def _beliefs(self) -> list[Belief]:
        return [belief for belief in (self.harmfulness, self.refusal) if belief is not None]

    def _settings(self) -> dict[str, Any]:
        from undertow import __version__

        return {
            "undertow": __version__,
            "model": {
                "name": self.identity.name,
                "revision": self.identity.revision,
                "fingerprint": self.identity.fingerprint,
                "template_hash": self.identity.template_hash,
                "thinking": self.identity.thinking,
                "identity": self.identity.to_dict(),
            },
            "beliefs": {
                "harmfulness": self.harmfulness.to_dict(),
                "refusal": None if self.refusal is None else self.refusal.to_dict(),
            },
            "steering": None if self.steering is None else self.steering.to_dict(),
            "directions": None if self.directions is None else self.directions.to_dict(),
            "belief_map": None if self.belief_map is None else self.belief_map.to_dict(),
            "calibration": self.calibration,
            "metrics": self.metrics,
            "training": self.training,
            "warnings": list(self.warnings),
        }

    def _deciding_tensors(self) -> dict[str, Array]:
        tensors = {name: array for belief in self._beliefs for name, array in belief.tensors().items()}
        if self.steering is not None:
            tensors["steering.direction"] = self.steering.direction
        return tensors

    def _check_shape(self) -> None:
        widths = {belief.rule.width for belief in self._beliefs}
        if self.steering is not None:
            widths.add(len(self.steering.direction))
        deepest, fits = self.states[-1], self.states[-1] <= self.model.layers
        if self.directions is not None:
            widths.add(self.directions.harmfulness.shape[-1])
            if fits:
                deepest = self.directions.states[-1]
                fits = deepest == self.model.layers
        if widths != {self.model.width} or not fits:
            raise GuardMismatchError(
                f"The guard reads states up to {deepest} of width {', '.join(map(str, sorted(widths)))}, but the "
                f"model has states up to {self.model.layers} of width {self.model.width}; use the model that it was "
                f"fitted on ({self.identity.name})."
            )

    def _refuse_unreadable(self, scores: Array, ids: Sequence[str | None]) -> None:
        bad = np.flatnonzero(~np.isfinite(scores))
        if len(bad):
            name = ids[bad[0]] or f"number {bad[0] + 1}"
            raise GuardError(
                f"The model gives states that are not finite for {len(bad)} prompts, the first being {name}; they "
                "must not be judged: load the model in bfloat16 or float32."
            )


def _is_single(prompts: Any) -> bool:
    if isinstance(prompts, str | Prompt):
        return True
    return isinstance(prompts, Sequence) and len(prompts) > 0 and isinstance(prompts[0], Mapping)


def _array(values: Any) -> Array:
    return values if isinstance(values, np.ndarray) else values.detach().float().cpu().numpy()
