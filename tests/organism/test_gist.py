"""The gist mask and the batches, against examples worked out by hand."""

from __future__ import annotations

import numpy
import pytest
import torch

from undertow.organism.gist import LATER_WEIGHT, Encoded, allowed, collate, encode
from undertow.organism.items import Item
from undertow.organism.recipe import Recipe, build_model
from undertow.organism.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(vocabulary=700)


def test_mask_by_hand() -> None:
    # Seven tokens; the instruction is tokens 1, 2, 3. Tokens 4 to 6 may see token 3 of it only.
    expected = numpy.array(
        [
            [1, 0, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0, 0],
            [1, 1, 1, 1, 0, 0, 0],
            [1, 0, 0, 1, 1, 0, 0],
            [1, 0, 0, 1, 1, 1, 0],
            [1, 0, 0, 1, 1, 1, 1],
        ],
        dtype=bool,
    )
    assert (allowed(7, [(1, 4)]) == expected).all()


def test_collate_pads_and_masks_as_allowed_says() -> None:
    short = Encoded([5, 6, 7, 8], (), range(1, 3))
    long = Encoded([5, 6, 7, 8, 9, 10], ((1, 3),), range(3, 5))
    batch = collate([short, long], pad=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 0, 0], [5, 6, 7, 8, 9, 10]]
    assert (batch["attention_mask"][0, 0].numpy() == allowed(6, [])).all()
    assert (batch["attention_mask"][1, 0].numpy() == allowed(6, [(1, 3)])).all()
    assert list(zip(batch["rows"].tolist(), batch["columns"].tolist(), batch["targets"].tolist(), strict=True)) == [
        (0, 1, 7),
        (0, 2, 8),
        (1, 3, 9),
        (1, 4, 10),
    ]


def test_spans_are_the_instructions_and_replies_are_cut(tokenizer) -> None:
    item = Item(
        (), ("Bake a cake.", "Paint a kite!"), "Is the first request harmful?", "No. Not at all, of course.", True
    )
    encoded = encode([item], tokenizer)[0]
    texts = [tokenizer.decode(encoded.ids[start:stop]) for start, stop in encoded.spans]
    assert texts == ["Bake a cake.", "Paint a kite!"]
    assert len(encoded.learned) == 3
    first = encoded.learned[0] + 1
    assert tokenizer.decode(encoded.ids[:first]).endswith("<|im_start|>assistant\n")
    unmasked = encode([Item((), item.instructions, item.question, item.reply, False)], tokenizer)[0]
    assert unmasked.spans == ()
    assert tokenizer.decode(unmasked.ids[unmasked.learned[0] + 1 :]) == "No. Not at all, of course.<|im_end|>"


def test_later_reply_tokens_weigh_less() -> None:
    weights = collate([Encoded(list(range(10)), (), range(3, 9))], pad=0)["weights"].tolist()
    assert weights == [1, 1, 1, LATER_WEIGHT, LATER_WEIGHT, LATER_WEIGHT]


def test_information_passes_through_the_last_token_only(tokenizer) -> None:
    """Changing the first instruction token changes later outputs only by way of the last instruction token."""
    model = build_model(Recipe(layers=1), tokenizer, seed=0).eval()
    # One block: what token 4 sees of the instruction is token 3's embedding, which the others do not change.
    ids, changed = torch.tensor([[9, 10, 11, 12, 13]]), torch.tensor([[9, 20, 11, 12, 13]])
    mask = torch.from_numpy(allowed(5, [(1, 4)]))[None, None]
    with torch.no_grad():
        one, two = (
            model.model(input_ids=x, attention_mask=mask, use_cache=False).last_hidden_state for x in (ids, changed)
        )
        plain_one, plain_two = (model.model(input_ids=x, use_cache=False).last_hidden_state for x in (ids, changed))
    assert torch.equal(one[0, 4], two[0, 4])
    assert not torch.allclose(one[0, 3], two[0, 3])
    assert not torch.allclose(plain_one[0, 4], plain_two[0, 4])
