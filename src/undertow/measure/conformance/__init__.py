"""What of a model is covered, proven by arithmetic against plain transformers (design rule 6).

Every check compares what Undertow does with the same thing done by hand: the model called directly, one prompt at a
time, without padding, cache or machinery of ours. A figure is the largest absolute difference divided by the largest
absolute value compared, so that one tolerance a dtype serves states and log-probabilities alike.
"""

from undertow.measure.conformance.suite import CHECKS, EXACT, PROMPTS, Check, conformance
from undertow.measure.conformance.trial import NotApplicable, Trial, relative_difference

__all__ = ["CHECKS", "EXACT", "PROMPTS", "Check", "NotApplicable", "Trial", "conformance", "relative_difference"]
