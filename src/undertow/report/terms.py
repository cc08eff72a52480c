"""Words that a reader of a report may not know."""

from __future__ import annotations

TERMS = {
    "t_inst": "The last token of the user's request. What the model thinks of the request is read there.",
    "t_post": "The last token of the whole prompt, from which the reply begins. What the model is about to do is read "
    "there.",
    "State l": "The model's running summary of a token (the residual stream) at the input of block l; the last state "
    "is the last block's output, before the final norm.",
    "Accepted harmful": "A harmful request that the model answered: it was jailbroken.",
    "Refused harmless": "A harmless request that the model refused: an over-refusal.",
    "Look-alike": "A harmless request that sounds harmful, such as destroying a weapon.",
    "Wrapper": "Text around a request that makes a model comply: role play, persuasion, or a noisy suffix.",
    "False-positive rate": "Share of harmless prompts that are flagged.",
    "Recall": "Share of the harmful prompts in question that are flagged.",
    "Reply inversion": "Asking whether the request could cause harm, with Certainly for yes and No for no, so that the "
    "honest answer and the refusal point in opposite directions.",
}
