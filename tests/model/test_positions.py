from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tests.builders import CHATML, CORPUS, SPECIALS, byte_level_tokenizer, wrap
from undertow.errors import ModelError, PositionError
from undertow.model.positions import Renderer
from undertow.prompts import Prompt

INST_TRIM = "{{ '<s>' }}{% for m in messages %}[INST] {{ m['content'] | trim }} [/INST]{% endfor %}"
PLAIN = "{% for m in messages %}USER: {{ m['content'] }}\nASSISTANT:{% endfor %}"


def renderer(template: str = CHATML, **options: object) -> Renderer:
    return Renderer(wrap(byte_level_tokenizer().backend_tokenizer, template), **options)  # type: ignore[arg-type]


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
    inner = byte_level_tokenizer().backend_tokenizer
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
        Renderer(wrap(byte_level_tokenizer().backend_tokenizer, None))
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


@pytest.mark.parametrize(
    ("ends", "kept"),
    [("strip('\\n')", "  a  "), ("lstrip('\\n').rstrip()", "  a"), ("rstrip('\\n')", "\n  a  "), ("lstrip()", "a  \n")],
)
def test_templates_that_trim_in_their_own_way(ends: str, kept: str) -> None:
    found = renderer("{% for m in messages %}U:{{ m['content']." + ends + " }}|{% endfor %}A:").render(
        Prompt("\n  a  \n")
    )
    assert found.text == f"U:{kept}|A:"
    assert found.offsets[found.t_inst][1] == len(f"U:{kept}")


def swallowing(*names: str) -> Renderer:
    clone = Tokenizer.from_str(byte_level_tokenizer().backend_tokenizer.to_str())
    clone.add_special_tokens([AddedToken(name, lstrip=True, rstrip=True) for name in names])
    return Renderer(wrap(clone, "{% for m in messages %}U:\n{{ m['content'] }}\n<|end|>{% endfor %}\ngo"))


@pytest.mark.parametrize(
    ("content", "first", "last"),
    [
        ("<|mark|>", "<|mark|>", "<|mark|>"),
        ("<|mark|> so", "<|mark|>", "o"),
        ("so <|mark|>", "s", "<|mark|>"),
        ("<|end|>", "<|end|>", "<|end|>"),
        ("<|end|> and <|mark|>  ", "<|end|>", "<|mark|>"),
    ],
)
def test_the_users_own_special_tokens_belong_to_the_instruction(content: str, first: str, last: str) -> None:
    # They swallow the template's line breaks on both sides, and are the user's all the same.
    tool = swallowing("<|end|>", "<|mark|>")
    found = tool.render(Prompt(content))
    tokens = tool.tokenizer.convert_ids_to_tokens(found.ids)
    assert (tokens[found.instruction[0]], tokens[found.t_inst]) == (first, last)
    assert tokens[found.t_inst + 1] == "<|end|>"
    assert "".join(tokens[: found.instruction[0]]).replace("\u010a", "") == "U:"


def test_blank_added_tokens_are_text_like_any_other() -> None:
    clone = Tokenizer.from_str(byte_level_tokenizer().backend_tokenizer.to_str())
    clone.add_tokens([AddedToken("\n\n", normalized=False)])
    tool = Renderer(wrap(clone, "{% for m in messages %}U: {{ m['content'] }}\n{% endfor %}A:"))
    found = tool.render(Prompt("stop\n"))
    assert tool.tokenizer.convert_ids_to_tokens(found.ids)[found.t_inst] == "\n\n"
    assert found.text[: found.offsets[found.t_inst][1]] == "U: stop\n\n"


def byte_fallback_unigram(normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    known = ["\u2581", *"abcdefghijklmnopqrstuvwxyz", "stop"]
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    pieces = [("<unk>", 0.0), *((piece, -2.0) for piece in known), *((piece, -20.0) for piece in bytes_)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "<|im_end|>"])
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return tokenizer


@pytest.mark.parametrize(
    "content", ["stop \U0001f642\u00e9", "\u00e9", "\U0001f642 stop \u05d0", "\n\n\u5c71", "A", "stop"]
)
def test_byte_tokens_that_share_one_span_are_told_apart(content: str) -> None:
    # A Unigram tokenizer gives every byte of "é\n\n答：" the span of all five characters.
    tool = Renderer(
        wrap(
            byte_fallback_unigram(),
            "{% for m in messages %}\u95ee\uff1a{{ m['content'] }}\n\n{% endfor %}\u7b54\uff1a",
        )
    )
    found = tool.render(Prompt(content))
    tokens = tool.tokenizer.convert_ids_to_tokens(found.ids)
    pieces = [
        bytes([int(token[3:5], 16)]) if token.startswith("<0x") else token.replace("\u2581", " ").encode()
        for token in tokens
    ]
    assert b"".join(pieces[: found.instruction[0]]).decode().strip(" ") == "\u95ee\uff1a"
    assert b"".join(pieces[: found.t_inst + 1]).decode().lstrip(" ") == f"\u95ee\uff1a{content}"


def test_byte_tokens_that_cannot_be_told_apart_are_refused() -> None:
    # Alone, the content's last character reads "!!"; before the template's line break it reads nothing.
    either = normalizers.Sequence(
        [normalizers.Replace(Regex("\u00bd\n"), "\n"), normalizers.Replace("\u00bd", "!!\u00e9")]
    )
    template = "{% for m in messages %}U {{ m['content'] }}\n{% endfor %}"
    tool = Renderer(wrap(byte_fallback_unigram(either), template))
    with pytest.raises(PositionError, match="one stretch of text"):
        tool.render(Prompt("stop \U0001f642\u00bd"))
    assert tool.render(Prompt("\u00bd\U0001f642 stop")).t_inst


def test_byte_tokens_of_characters_that_a_normalizer_expands_are_told_apart() -> None:
    # One character becomes three and two become one, so that bytes and characters agree in number by chance only.
    template = "{% for m in messages %}\u2474\u00ff{{ m['content'] }}\u2474\n{% endfor %}"
    for normalizer in (normalizers.NFKD(), normalizers.NFKC()):
        tool = Renderer(wrap(byte_fallback_unigram(normalizer), template))
        for content in ("stop \u00bd\U0001f642", "o\u0301A\u0301E\u0301E\u0301", "\u00bd", "\ufb01\U0001f642"):
            found = tool.render(Prompt(content))
            tokens = tool.tokenizer.convert_ids_to_tokens(found.ids[: found.t_inst + 1])
            pieces = [
                bytes([int(token[3:5], 16)]) if token.startswith("<0x") else token.replace("\u2581", " ").encode()
                for token in tokens
            ]
            whole = normalizer.normalize_str(f"\u2474\u00ff{content}")
            assert b"".join(pieces).decode().lstrip(" ") == whole
            before = b"".join(pieces[: found.instruction[0]]).decode().lstrip(" ")
            assert before == normalizer.normalize_str("\u2474\u00ff")


def test_thinking_switch_of_a_template_that_wants_parts() -> None:
    template = (
        "{% for m in messages %}<s>{% for part in m['content'] %}{{ raise_exception('no text') if part is string }}"
        "{{ part['text'] }}{% endfor %}[/INST]{% endfor %}{{ '<think>' if enable_thinking else '' }}"
    )
    assert renderer(template, thinking=True).render(Prompt("Hello")).text == "<s>Hello[/INST]<think>"
    assert renderer(template, thinking=False).render(Prompt("Hello")).text == "<s>Hello[/INST]"


def test_named_templates_use_the_default_one() -> None:
    tokenizer = wrap(byte_level_tokenizer().backend_tokenizer, None)
    tokenizer.chat_template = {"default": PLAIN, "tool_use": "{{ tools }}"}
    assert Renderer(tokenizer).render(Prompt("Hello")).text == "USER: Hello\nASSISTANT:"
    tokenizer.chat_template = {"rag": PLAIN, "tool_use": "{{ tools }}"}
    with pytest.raises(PositionError, match="no default"):
        Renderer(tokenizer).render(Prompt("Hello"))


def test_templates_that_read_the_content_are_refused_only_where_it_matters() -> None:
    # Keeps what follows a closed think block, and drops one tail where the text asks for it.
    template = (
        "{% for m in messages %}U:{{ m['content'].split('</think>') | last }}|{% endfor %}"
        "{{ '' if '/quick' in messages[-1]['content'] else '<think>' }}"
    )
    tool = renderer(template)
    assert marked(tool, "plain words") == ("s", "<think>")
    for content in ("a</think>b", "a /quick one"):
        with pytest.raises(PositionError, match="depending on its text"):
            tool.render(Prompt(content))


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

    clone = Tokenizer.from_str(byte_level_tokenizer().backend_tokenizer.to_str())
    clone.post_processor = processors.ByteLevel(trim_offsets=True)
    return clone


TOKENIZERS = {
    "byte-level": lambda: byte_level_tokenizer().backend_tokenizer,
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
