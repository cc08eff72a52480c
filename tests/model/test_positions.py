from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tests.builders import CHATML, CORPUS, SPECIALS, byte_level_tokenizer, wrap
from undertow.errors import ModelError, PositionError
from undertow.model.positions import Renderer
from undertow.prompts import Prompt

INST_TRIM = "{{ '<s>' }}{% for m in messages %}[INST] {{ m['content'] | trim }} [/INST]{% endfor %}"
PLAIN = "{% for m in messages %}USER: {{ m['content'] }}\nASSISTANT:{% endfor %}"


def renderer(template: str = CHATML, **options: object) -> Renderer:
    return Renderer(wrap(byte_level_tokenizer()._tokenizer, template), **options)  # type: ignore[arg-type]


def marked(tool: Renderer, content: str) -> tuple[str, str]:
    """The characters of t_inst and of t_post."""
    found = tool.render(Prompt(content))
    first, last = found.offsets[found.t_inst]
    return found.text[first:last], found.text[slice(*found.offsets[found.t_post])]


def test_positions_by_hand() -> None:
    tool = renderer()
    found = tool.render(Prompt("How do I fix it?"))
    tokens = tool.tokenizer.convert_ids_to_tokens(found.ids)
    assert tokens[found.t_inst] == "?"
    assert tokens[found.t_inst + 1 :] == ["<|im_end|>", "Ċ", "<|im_start|>", "a", "ss", "istant", "Ċ"]
    assert found.t_post == len(found.ids) - 1
    assert tool.tokenizer.decode([found.ids[i] for i in found.instruction]) == "How do I fix it?"
    assert list(found.tail) == list(range(found.t_inst + 1, len(found.ids)))


def test_ids_equal_the_templates_own_tokenisation_with_no_doubled_bos() -> None:
    tool = renderer(INST_TRIM)
    found = tool.render(Prompt("Hello there"))
    own = tool.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello there"}], add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"]
    assert found.ids == own
    assert tool.tokenizer.convert_ids_to_tokens(found.ids).count("<s>") == 1


@pytest.mark.parametrize("content", ["  padded both sides \n", "\t x"])
def test_trimming_templates_lose_only_the_blanks(content: str) -> None:
    tool = renderer(INST_TRIM)
    found = tool.render(Prompt(content))
    start = found.offsets[found.instruction[0]][0]
    end = found.offsets[found.t_inst][1]
    assert found.text[start:end].strip() == content.strip()
    assert marked(tool, content)[0].strip() == content.strip()[-1:] or content.strip().endswith(
        marked(tool, content)[0].strip()
    )


def test_system_and_several_turns_mark_the_last_user_message() -> None:
    tool = renderer()
    found = tool.render(
        Prompt(
            (
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Same words"},
                {"role": "assistant", "content": "Yes."},
                {"role": "user", "content": "Same words"},
            )
        )
    )
    start, end = found.offsets[found.instruction[0]][0], found.offsets[found.t_inst][1]
    assert found.text[start:end] == "Same words"
    assert start == found.text.rindex("Same words")


def test_a_token_that_merges_content_and_template_belongs_to_the_instruction() -> None:
    # "?\n" is one token here, so the last character of the content shares a token with the template's newline.
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])
    alphabet = sorted(set("".join(CORPUS) + PLAIN + "?\n:USERAITN"))
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<|im_end|>", *alphabet])}
    vocabulary["?\n"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("?", "\n")]))
    tool = Renderer(wrap(tokenizer, PLAIN))
    found = tool.render(Prompt("How?"))
    first, last = found.offsets[found.t_inst]
    assert found.text[first:last] == "?\n"
    assert found.text[: first + 1].endswith("How?")


def test_special_tokens_that_swallow_blanks_stay_out_of_the_instruction() -> None:
    inner = byte_level_tokenizer()._tokenizer
    clone = Tokenizer.from_str(inner.to_str())
    clone.add_special_tokens([AddedToken("<|end|>", lstrip=True, rstrip=True)])
    tool = Renderer(wrap(clone, "{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}go"))
    found = tool.render(Prompt("stop it  "))
    assert tool.tokenizer.convert_ids_to_tokens(found.ids[found.t_inst + 1]) == "<|end|>"
    assert found.text[: found.offsets[found.t_inst][1]] == "stop it"


@pytest.mark.parametrize(
    "content",
    ["tell me about <|im_end|>", "<|im_start|>user", "a <|im_end|>\n<|im_start|>assistant\nb", "sEnt0iNel", "{{ x }}"],
)
def test_template_tokens_in_the_content_do_not_move_the_span(content: str) -> None:
    found = renderer().render(Prompt(content))
    start, end = found.offsets[found.instruction[0]][0], found.offsets[found.t_inst][1]
    assert found.text[start:end] == content


def test_the_sentinel_itself_as_content() -> None:
    from undertow.model import positions

    content = positions._SENTINEL.format(n=0) + " " + positions._SENTINEL.format(n=1)
    found = renderer().render(Prompt(content))
    start, end = found.offsets[found.instruction[0]][0], found.offsets[found.t_inst][1]
    assert found.text[start:end] == content


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for m in messages %}{{ m['content'] | upper }}!{% endfor %}", "rewrites"),
        ("{% for m in messages %}{{ m['content'] | tojson }}!{% endfor %}", "rewrites"),
        ("{% for m in messages %}{{ m['content'] | e }}!{% endfor %}", "rewrites"),
        ("{% for m in messages %}{{ m['content'] }} {{ m['content'] }}{% endfor %}", "2 times"),
        ("{% for m in messages %}nothing{% endfor %}", "rewrites"),
        (
            "{% for m in messages %}{{ 'A' if m['content'] == 'plain' else 'B' }}{{ m['content'] }}{% endfor %}",
            "depending on its text",
        ),
        ("{{ raise_exception('no system role') }}", "no system role"),
    ],
)
def test_templates_that_rewrite_are_refused(template: str, words: str) -> None:
    with pytest.raises(PositionError, match=words):
        renderer(template).render(Prompt("plain"))


@pytest.mark.parametrize("content", ["", "   ", "\n"])
def test_empty_content_is_refused(content: str) -> None:
    with pytest.raises(PositionError, match="empty"):
        renderer().render(Prompt(content))


def test_conversation_must_end_with_the_user() -> None:
    with pytest.raises(PositionError, match="end with a user message"):
        renderer().render(Prompt(({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})))


def test_prompts_longer_than_the_context_are_refused() -> None:
    with pytest.raises(PositionError, match="reads at most 20"):
        renderer(context=20).render(Prompt("word " * 40))


def test_no_template_and_no_switch() -> None:
    with pytest.raises(PositionError, match="no chat template"):
        Renderer(wrap(byte_level_tokenizer()._tokenizer, None))
    with pytest.raises(ModelError, match="no thinking switch"):
        renderer(thinking=True)


def test_thinking_switch_changes_the_tail() -> None:
    template = (
        CHATML[: -len("{% endif %}")] + "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    )
    on, off = (renderer(template, thinking=mode).render(Prompt("Hello")) for mode in (True, False))
    assert len(off.tail) > len(on.tail)
    assert on.t_inst == off.t_inst


def test_templates_that_want_parts() -> None:
    template = (
        "{% for m in messages %}<s>{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
        "{% endif %}{% endfor %}[/INST]{% endfor %}"
    )
    found = renderer(template).render(Prompt("Hello there"))
    assert found.text == "<s>Hello there[/INST]"
    assert found.text[: found.offsets[found.t_inst][1]] == "<s>Hello there"


def unigram_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.normalizer = normalizers.NFKC()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=[*SPECIALS, "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def word_piece_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=[*SPECIALS, "<unk>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def trimmed_offsets_tokenizer() -> Tokenizer:
    from tokenizers import processors

    clone = Tokenizer.from_str(byte_level_tokenizer()._tokenizer.to_str())
    clone.post_processor = processors.ByteLevel(trim_offsets=True)
    return clone


TOKENIZERS = {
    "byte-level": lambda: byte_level_tokenizer()._tokenizer,
    "trimmed offsets": trimmed_offsets_tokenizer,
    "sentence-piece style": unigram_tokenizer,
    "word-piece": word_piece_tokenizer,
}
BEFORE = {CHATML: "<|im_start|>user\n", INST_TRIM: "<s>[INST] ", PLAIN: "USER: "}
BUILT: dict[tuple[str, str], Renderer] = {}
CONTENT = st.text(
    alphabet=st.one_of(
        st.characters(codec="utf-8"),
        st.sampled_from(list("abc .?!\n\t\u0301\u200d\U0001f642\u05d0\u0627\u202e")),
    ),
    min_size=1,
    max_size=80,
)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("template", [CHATML, INST_TRIM, PLAIN])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.one_of(CONTENT, st.tuples(CONTENT, st.sampled_from(SPECIALS)).map("".join)))
def test_random_content_never_gets_a_wrong_position(name: str, template: str, content: str) -> None:
    key = (name, template)
    if key not in BUILT:
        BUILT[key] = Renderer(wrap(TOKENIZERS[name](), template))
    tool = BUILT[key]
    try:
        found = tool.render(Prompt(content))
    except PositionError as error:
        blank = not content.strip()
        assert blank or "no token of its own" in str(error)
        return
    kept = content.strip() if "trim" in template else content
    start = len(BEFORE[template])
    end = start + len(kept)
    assert found.text[start:end] == kept
    first, last = found.offsets[found.t_inst]
    assert start <= first < end or (first < start < last), "t_inst lies in the content"
    after = [index for index in found.tail if found.offsets[index][0] < end and found.offsets[index][1] > start]
    special = set(tool.tokenizer.added_tokens_decoder)
    assert all(found.ids[index] in special for index in after), "no content token lies behind t_inst"
    uncovered = found.text[last:end]
    assert not uncovered.strip() or name != "byte-level"
