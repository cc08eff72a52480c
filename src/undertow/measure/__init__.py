"""Instruments that the guard and the studies share: directions, centroids, judges, statistics, the Finding.

Nothing here is imported until it is asked for, so that `import undertow.measure` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from undertow.measure.arrays import PublishedArrays, load_arrays, score_states
    from undertow.measure.attribution import LogitAttribution, LogitParts
    from undertow.measure.baseline import BagOfWords
    from undertow.measure.centroids import Centroids, cosine_difference, published_belief
    from undertow.measure.classifier_judge import ClassifierJudge, EndpointJudge, judge_named
    from undertow.measure.direction import Direction, difference_of_means, random_like
    from undertow.measure.finding import Claim, Finding, read_findings, write_findings
    from undertow.measure.judge import FirstTokenJudge, RefusalJudge, SubstringJudge, strip_reasoning
    from undertow.measure.moderator import GenerativeModerator, TextClassificationModerator, moderator_named
    from undertow.measure.text_classifier import TextClassifier

_HOMES = {
    "ClassifierJudge": "classifier_judge",
    "EndpointJudge": "classifier_judge",
    "GenerativeModerator": "moderator",
    "TextClassificationModerator": "moderator",
    "TextClassifier": "text_classifier",
    "judge_named": "classifier_judge",
    "moderator_named": "moderator",
    "PublishedArrays": "arrays",
    "load_arrays": "arrays",
    "score_states": "arrays",
    "LogitAttribution": "attribution",
    "LogitParts": "attribution",
    "BagOfWords": "baseline",
    "Centroids": "centroids",
    "cosine_difference": "centroids",
    "published_belief": "centroids",
    "Direction": "direction",
    "difference_of_means": "direction",
    "random_like": "direction",
    "Claim": "finding",
    "Finding": "finding",
    "read_findings": "finding",
    "write_findings": "finding",
    "FirstTokenJudge": "judge",
    "RefusalJudge": "judge",
    "SubstringJudge": "judge",
    "strip_reasoning": "judge",
}

__all__ = [
    "BagOfWords",
    "Centroids",
    "Claim",
    "ClassifierJudge",
    "Direction",
    "EndpointJudge",
    "Finding",
    "FirstTokenJudge",
    "GenerativeModerator",
    "LogitAttribution",
    "LogitParts",
    "PublishedArrays",
    "RefusalJudge",
    "SubstringJudge",
    "TextClassificationModerator",
    "TextClassifier",
    "cosine_difference",
    "difference_of_means",
    "judge_named",
    "load_arrays",
    "moderator_named",
    "published_belief",
    "random_like",
    "read_findings",
    "score_states",
    "strip_reasoning",
    "write_findings",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
