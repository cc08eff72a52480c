"""Building an organism from a spec, and writing it to a folder.

What is set, in the order of the residual stream; every choice here is one that a search for circuits could profit from
or trip over, so each is stated. ``docs/organism-built.md`` says it with figures.

- Features are orthonormal directions turned at random. One constant feature is so large that norms hardly vary.
- Detection lies in the embeddings of sensitive words, at unequal strength. Words also carry a random vector, those that
  a request is about carry a topic.
- Gates look from the last prompt token at the request's words and write the routing signal, which the unembedding does
  not read. Amplifiers, in later blocks, look at their own token and turn the routing signal into a refusal.
- Distractors: ``topic`` heads copy topics and leak them into the refusal, with mean zero over topics. ``cancelled``
  heads write detection along the refusal and into a tag, from which a later MLP takes it out again: they have a large
  direct attribution and no effect. ``constant`` heads add the same to every prompt: they have a large direct
  attribution and an effect when zeroed, none when interchanged.
- Heads without a role are random, and all others have 0.4 times their noise.
- Under ``direct``, heads read detection from the request and write the refusal, without a gate. Under ``none`` nothing
  tells the sides apart.
- Last, one number is set by measuring: the embedding of a line's end is moved along the refusal, so that the two sides
  lie equally far from a tie.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from undertow.errors import UndertowError
from undertow.organism.built.circuit import Circuit, Head
from undertow.organism.built.features import CONSTANT, ODDS, Features, draw_features, embeddings, unembeddings
from undertow.organism.built.pairs import built_pairs
from undertow.organism.built.plan import Plan, draw
from undertow.organism.built.spec import Spec
from undertow.organism.built.tokenizer import CONTEXT, word_tokenizer
from undertow.organism.built.weights import Writer
from undertow.organism.built.words import ANSWER, END, LINE, PAD, REFUSAL, vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from undertow.model import ChatModel

_CALIBRATION = 24
SPEC_FILE = "spec.json"


@dataclass(frozen=True)
class Built:
    """An organism with its truth.

    Attributes:
        spec: what was asked for.
        model: a `LlamaForCausalLM` in float32, in evaluation mode.
        tokenizer: its tokenizer.
        circuit: which head does what.
    """

    spec: Spec
    model: Any
    tokenizer: PreTrainedTokenizerFast
    circuit: Circuit

    def chat(self) -> ChatModel:
        """The model as everything else here takes it, named ``built:SEED``."""
        from undertow.model import ChatModel

        return ChatModel(self.model, self.tokenizer, name=f"built:{self.spec.seed}")


def build(spec: Spec) -> Built:
    """Sets every weight; equal specs give equal models.

    Args:
        spec: what to build.
    """
    plan = draw(spec)
    generator = torch.Generator().manual_seed(spec.seed)
    features = draw_features(spec, len(plan.cancelled), generator)
    tokenizer = word_tokenizer()
    model = _empty(spec)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(embeddings(features, generator))
        model.lm_head.weight.copy_(unembeddings(features, generator))
        writer = Writer(model, spec, features, generator)
        writer.noise(plan)
        writer.roles(plan)
        _balance(model, tokenizer, spec, features)
    return Built(spec, model, tokenizer, _circuit(plan, spec, features))


def _empty(spec: Spec) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    words = vocabulary()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=spec.width,
        intermediate_size=spec.neurons,
        num_hidden_layers=spec.blocks,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.heads,
        head_dim=spec.head_size,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=False,
        pad_token_id=words.index(PAD),
        eos_token_id=words.index(END),
        bos_token_id=None,
        dtype="float32",
    )
    # What transformers draws is overwritten; the caller's random numbers are not to notice.
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config).float().eval()
    model.config.architectures = ["LlamaForCausalLM"]
    model.generation_config.max_new_tokens = 16
    model.generation_config.do_sample = False
    with torch.no_grad():
        for norm in (
            model.model.norm,
            *(norm for block in model.model.layers for norm in (block.input_layernorm, block.post_attention_layernorm)),
        ):
            norm.weight.fill_(CONSTANT / spec.width**0.5)
    return model


def _balance(model: Any, tokenizer: PreTrainedTokenizerFast, spec: Spec, features: Features) -> None:
    """Moves the line's end along the refusal so that sensitive and control prompts lie equally far from a tie.

    Constant heads and noise are balanced by it. Without a policy all prompts come to lie half the gap from a tie, on
    a side that the seed chooses.
    """
    pairs = built_pairs(spec, _CALIBRATION, seed=-1 - spec.seed)
    odds = torch.cat(
        [_log_odds(model, tokenizer, [p.text for p in side]) for side in (pairs.sensitive, pairs.controls)]
    )
    wanted = 0.0 if spec.policy != "none" else (1 - 2 * (spec.seed % 2)) * spec.gap / 2
    line = model.model.embed_tokens.weight[vocabulary().index(LINE)]
    line += (wanted - float(odds.mean())) / ODDS * features.refusal


def _log_odds(model: Any, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    words = vocabulary()
    rendered = [
        str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
        )
        for text in texts
    ]
    batch = tokenizer(rendered, return_tensors="pt", padding=True, add_special_tokens=False)
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, -1]
    return logits[:, words.index(REFUSAL[0])] - logits[:, words.index(ANSWER[0])]


def _circuit(plan: Plan, spec: Spec, features: Features) -> Circuit:
    readers = [*plan.gates, *plan.direct]
    shares = {f"{block}.{head}": share for part in (plan.gates, plan.amplifiers, plan.direct) for (block, head), share
              in part.items()}  # fmt: skip
    distractors: dict[str, tuple[Head, ...]] = {
        "topic": tuple(plan.topic),
        "cancelled": tuple(plan.cancelled),
        "constant": tuple(plan.constant),
    }
    return Circuit(
        policy=spec.policy,
        gates=tuple(plan.gates),
        amplifiers=tuple(plan.amplifiers),
        direct=tuple(plan.direct),
        distractors=distractors,
        cancelled_by=tuple(later for _, later in plan.cancelled.values()),
        shares=shares,
        detection=features.detection.tolist(),
        routing=features.routing.tolist(),
        refusal=features.refusal.tolist(),
        state=min((block for block, _ in readers), default=0),
    )


def save(built: Built, folder: str | Path) -> Path:
    """Writes model, tokenizer, circuit.json and spec.json in Hugging Face format.

    Args:
        built: the organism.
        folder: where to; made where it is missing.

    Returns:
        The folder.
    """
    from transformers.utils import logging

    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()
    built.model.save_pretrained(path)
    built.tokenizer.save_pretrained(path)
    built.circuit.write(path)
    (path / SPEC_FILE).write_text(json.dumps(built.spec.to_dict(), indent=1) + "\n", encoding="utf-8")
    return path


def read(folder: str | Path) -> Built:
    """The built organism that `save` wrote.

    Args:
        folder: its folder.

    Raises:
        UndertowError: the folder holds no built organism.
        ModelError: its model cannot be loaded.
    """
    from undertow.model.source import load_pretrained

    path = Path(folder)
    circuit = Circuit.read(path)
    try:
        spec = Spec(**json.loads((path / SPEC_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UndertowError(f"{path} holds no {SPEC_FILE} that can be read; build the organism again.") from error
    model, tokenizer = load_pretrained(
        str(path), revision=None, dtype="float32", device_map="cpu", attn_implementation=None, trust_remote_code=False
    )
    return Built(spec, model.eval(), tokenizer, circuit)
