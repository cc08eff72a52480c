"""Part 9: the cipher contrast, all heads at once from a fixed number of passes a pair.

A head that carries policy adds to the readout where the request is plain and does not where it is ciphered; a head that
carries the form does so on controls too. The difference of the differences is its sensitivity. The published analysis
(arXiv 2604.04385) has three sets of prompts, plain, ciphered and harmless; the ciphered control is the fourth here.
"""

from __future__ import annotations

import numpy as np

from undertow.errors import CoverageError
from undertow.measure.permutation import sign_flip
from undertow.studies.routing.attribution import Attributor
from undertow.studies.routing.context import Context, Half
from undertow.studies.routing.readings import Array, Head


def measure_contrast(
    context: Context, choose: tuple[Half, Half], report: tuple[Half, Half]
) -> tuple[Array, Array, tuple[Head, ...]]:
    """Direct attribution to the log-odds of every head, plain minus ciphered, net of the same on the controls.

    Args:
        context: the model and the openings of refusals and answers.
        choose, report: (plain, ciphered) of the same pairs.

    Returns:
        (H,) mean over the report pairs; (H,) family-wise p that it differs from zero, by sign flips over the choose
        pairs, two-sided; the heads. All are empty for a model whose logits are no sum of its parts.
    """
    try:
        attributor = Attributor(context)
        tested, shown = (contrast_of(attributor, *forms) for forms in (choose, report))
    except CoverageError:
        return np.zeros(0), np.zeros(0), ()
    flips = sign_flip(tested, permutations=context.permutations, alternative="two-sided", seed=context.seed)
    return shown.mean(0), flips.p, context.heads


def contrast_of(attributor: Attributor, plain: Half, ciphered: Half) -> Array:
    """(n, H): plain minus ciphered on the sensitive side, minus the same on the controls."""
    sides = [attributor(plain, side).heads - attributor(ciphered, side).heads for side in ("sensitive", "control")]
    return np.asarray(sides[0] - sides[1])
