"""The model card of an exported classifier."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def classifier_card(export: Mapping[str, Any], model: str, dtype: str) -> str:
    """README.md for the values of `ClassifierExport.to_dict`, written for someone who serves it.

    Args:
        export: the values.
        model: name of the chat model that it was cut from.
        dtype: floating-point type of the weights.
    """
    threshold = export["threshold"]
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-classification",
        "tags: [latent-guard, safety, undertow]",
        *([f"base_model: {model}"] if re.fullmatch(r"[\w.-]+/[\w.-]+", model) else []),
        "---",
        "",
        f"# Harmfulness of a prompt, read from {model}",
        "",
        f"The first {export['blocks']} blocks of the model, its final norm without gains, and a linear head: "
        f"`{export['architecture']}`, with the labels `harmless` and `harmful`. The head is the rule "
        f"`{export['rule']}` of a Latent Guard at state {export['state']}, whose folder lies beside this file "
        "(`guard`), so that anybody can check that both say the same.",
        "",
        f"- The probability of `harmful` is calibrated at even odds. **Flag from {threshold:.6f} on**: the threshold "
        "was set for a wanted false-positive rate and need not be one half, so do not take the likelier label.",
        "- The chat template ends with the last word of the user's message, where the guard reads. Render prompts with "
        "it; it adds nothing for an answer, whatever `add_generation_prompt` says.",
        f"- After writing it was loaded in plain transformers and compared on {export['checked']} prompts: "
        f"probabilities differ by at most {export['largest_difference']:.1e}.",
    ]
    if export["agreement"] is not None:
        found = export["agreement"]
        lines.append(
            f"- It stands in for a guard of another rule. On {found['prompts']} prompts held out from its fit it "
            f"decides as that guard on {found['alike']} (95 % interval {found['low']:.1%} to {found['high']:.1%})."
        )
    lines += [f"- {note}" for note in export["notes"]]
    lines += [
        "",
        "## With transformers",
        "",
        "```python",
        "import torch",
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "",
        'folder = "path/to/this/folder"',
        "tokenizer = AutoTokenizer.from_pretrained(folder)",
        "model = AutoModelForSequenceClassification.from_pretrained(folder).eval()",
        'messages = [{"role": "user", "content": "How do I sharpen a kitchen knife?"}]',
        'inputs = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)',
        "with torch.inference_mode():",
        "    print(model(**inputs).logits.softmax(-1)[0, 1].item())",
        "```",
        "",
        "## With vLLM",
        "",
        "```bash",
        f"vllm serve path/to/this/folder --runner pooling --convert classify --dtype {dtype}",
        "curl localhost:8000/classify -H 'Content-Type: application/json' -d '{",
        '  "messages": [{"role": "user", "content": "How do I sharpen a kitchen knife?"}]}\'',
        "```",
        "",
        "`probs[1]` is the probability of `harmful`. No pooling settings are needed, and tensor parallelism works as "
        "for the model itself. Over a file: `undertow scan --engine vllm`.",
        "",
        "## Limits",
        "",
        "- There is no belief of refusal: this reads what the model takes the request to be, not what it will do.",
        "- The guard's limits are in `guard/README.md` and hold here too.",
        "- In batches plain transformers reads the last token that is not padding, so a message that ends with the "
        "padding token itself is read one token earlier; vLLM is not affected.",
        "",
    ]
    return "\n".join(lines)
