from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.studied import small_context
from undertow.errors import UndertowError
from undertow.measure.observed import Observed
from undertow.prompts import Prompt
from undertow.studies.beliefs.context import Context, Panel
from undertow.studies.beliefs.directions import (
    category_cells,
    harmfulness_direction,
    measure_directions,
    refusal_direction,
)

STATES, WIDTH = 3, 16


def panel(kinds, seed=0, states=None):
    """Prompts from (harmful, refused, wrapper, category) and random or given states."""
    prompts = [
        Prompt(f"prompt {row}", harmful=harmful, wrapper=wrapper, category=category)
        for row, (harmful, _, wrapper, category) in enumerate(kinds)
    ]
    generator = np.random.default_rng(seed)
    held = states or {
        name: generator.normal(size=(len(kinds), STATES, WIDTH)).astype(np.float32) for name in ("t_inst", "t_post")
    }
    refused = np.array([refused for _, refused, _, _ in kinds])
    return Panel(Observed(prompts, [""] * len(kinds), refused, held), np.full(len(kinds), -1))


HARMFUL, HARMLESS = (True, True, None, "a"), (False, False, None, "b")


def context_of(fit):
    chat = type("Chat", (), {"layers": STATES - 1})()
    return Context(chat, fit, fit, None, None, progress=False)


def test_harmfulness_is_the_difference_of_the_anchors_at_t_inst():
    given = panel([HARMFUL] * 5 + [HARMLESS] * 7 + [(True, False, None, "a")] * 4 + [(False, True, None, "b")] * 4)
    found = harmfulness_direction(given)
    values = given.states("t_inst").astype(float)
    np.testing.assert_allclose(found.values.numpy(), values[:5].mean(0) - values[5:12].mean(0), atol=1e-6)
    assert (found.kind, found.position, found.n, found.states) == ("harmfulness", "t_inst", 12, (0, 1, 2))


def test_harmfulness_leaves_a_wrapper_out_unless_both_sides_have_it():
    wrapped = (False, False, "role_play", "b")
    given = panel([HARMFUL] * 5 + [HARMLESS] * 5 + [wrapped] * 6)
    values = given.states("t_inst").astype(float)
    expected = values[:5].mean(0) - values[5:10].mean(0)
    np.testing.assert_allclose(harmfulness_direction(given).values.numpy(), expected, atol=1e-6)
    both = panel([HARMFUL] * 5 + [HARMLESS] * 5 + [wrapped] * 6 + [(True, True, "role_play", "a")] * 8)
    values = both.states("t_inst").astype(float)
    inside = values[16:].mean(0) - values[10:16].mean(0)
    expected = (values[:5].mean(0) - values[5:10].mean(0) + inside) / 2
    np.testing.assert_allclose(harmfulness_direction(both).values.numpy(), expected, atol=1e-6)


def test_refusal_weighs_harmful_and_harmless_alike():
    kinds = [(True, True)] * 9 + [(True, False)] * 4 + [(False, True)] * 5 + [(False, False)] * 12
    given = panel([(harmful, refused, None, "a") for harmful, refused in kinds])
    values = given.states("t_post").astype(float)
    expected = (values[:9].mean(0) - values[9:13].mean(0) + values[13:18].mean(0) - values[18:].mean(0)) / 2
    found = refusal_direction(given)
    np.testing.assert_allclose(found.values.numpy(), expected, atol=1e-6)
    assert (found.kind, found.position, found.n) == ("refusal", "t_post", 30)
    chosen = np.r_[0:9, 18:30]
    confounded = refusal_direction(given, chosen)
    np.testing.assert_allclose(confounded.values.numpy(), values[:9].mean(0) - values[18:].mean(0), atol=1e-6)


def test_a_missing_side_is_an_error():
    with pytest.raises(UndertowError, match="refused harmful and accepted harmless prompts, and there are 0 and 6"):
        harmfulness_direction(panel([HARMLESS] * 6))
    with pytest.raises(UndertowError, match="refused and accepted prompts, and there are 6 and 0"):
        refusal_direction(panel([HARMFUL] * 6))
    with pytest.raises(UndertowError, match="Directions need 4 fit prompts on each side"):
        measure_directions(context_of(panel([HARMFUL] * 3 + [HARMLESS] * 6)))


def synthetic(angle, noise=0.05, seed=3):
    """A panel whose two directions stand at an angle at every state but the first, which says nothing at t_post."""
    kinds = [HARMFUL] * 20 + [(True, False, None, "a")] * 20 + [HARMLESS] * 20 + [(False, True, None, "b")] * 20
    generator = np.random.default_rng(seed)
    held = {name: noise * generator.normal(size=(80, STATES, WIDTH)) + 1.0 for name in ("t_inst", "t_post")}
    harmful, refused = (np.array([kind[place] for kind in kinds])[:, None] for place in (0, 1))
    held["t_inst"][..., 0] += 2.0 * harmful
    held["t_post"][..., 0] += 3.0 * refused * np.cos(np.radians(angle))
    held["t_post"][..., 1] += 3.0 * refused * np.sin(np.radians(angle))
    held["t_post"][:, 0] = 0.1
    # The last state is the noisiest, so that the middle one separates best.
    held["t_inst"][:, 2] += 1.5 * generator.normal(size=(80, WIDTH))
    return panel(kinds, states={name: values.astype(np.float32) for name, values in held.items()})


@pytest.mark.parametrize("angle", [0.0, 60.0, 90.0])
def test_directions_of_known_angle(angle):
    fit = synthetic(angle)
    found = measure_directions(context_of(fit))
    assert found.cosine.mean[0] == 0.0 and found.ceiling[0] == 0.0 and found.norms["refusal"][0] == 0.0
    assert found.cosine.mean[1] == pytest.approx(np.cos(np.radians(angle)), abs=0.03)
    assert found.cosine.mean[1] <= found.ceiling[1] + 0.01
    expected = harmfulness_direction(fit).cosine(
        # Another position, the same model: the cosine does not mind.
        refusal_direction(fit),
        2,
    )
    assert found.cosine.mean[2] == pytest.approx(expected, abs=1e-6)
    assert (found.cosine.low <= found.cosine.mean).all() and (found.cosine.mean <= found.cosine.high).all()
    assert found.state == 1
    scale = np.linalg.norm(fit.states("t_inst")[:, 1].astype(float), axis=1).mean()
    assert found.norms["harmfulness"][1] == pytest.approx(harmfulness_direction(fit).norm(1) / scale, rel=1e-5)
    assert found.reliability["harmfulness"].mean[1] > 0.98 > found.reliability["harmfulness"].mean[2]
    assert found.random.control and abs(found.random.mean).max() < 0.06
    # In 16 dimensions a random cosine has standard deviation 1/4.
    np.testing.assert_allclose(found.random.high, 1.96 / 4, atol=0.1)


def test_cosine_band_is_as_wide_as_fresh_prompts_make_it():
    values = [measure_directions(context_of(synthetic(60.0, noise=0.8, seed=seed))) for seed in range(25)]
    spread = np.std([found.cosine.mean[1] for found in values], ddof=1)
    width = np.mean([found.cosine.high[1] - found.cosine.low[1] for found in values])
    assert width / (2 * 1.96) == pytest.approx(spread, rel=0.35)


def test_category_cosines_by_hand():
    kinds = []
    for name in ("x", "y", "z"):
        kinds += [(True, True, None, name)] * 9 + [(True, False, None, name)] * 5 + [(False, False, None, name)] * 4
    kinds += [(True, True, None, "rare")] * 7 + [(True, False, None, "rare")] * 5
    given = panel(kinds)
    assert list(category_cells(given)["harmfulness"]) == ["x", "y", "z"]
    found = measure_directions(context_of(given))
    assert found.categories == ("x", "y", "z")
    values = {name: given.states(name)[:, found.state].astype(float) for name in ("t_inst", "t_post")}
    harmful, refused = given.harmful, given.refused
    categories = np.array([kind[3] for kind in kinds])
    harmless = values["t_inst"][~harmful & ~refused].mean(0)
    first, second = (values["t_inst"][(categories == name) & refused].mean(0) - harmless for name in ("x", "z"))
    expected = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert found.category_cosines["harmfulness"][0, 2] == pytest.approx(expected, abs=1e-6)
    first, second = (
        values["t_post"][(categories == name) & refused].mean(0)
        - values["t_post"][(categories == name) & harmful & ~refused].mean(0)
        for name in ("x", "z")
    )
    expected = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert found.category_cosines["refusal"][0, 2] == pytest.approx(expected, abs=1e-6)
    for kind in ("harmfulness", "refusal"):
        table = found.category_cosines[kind]
        np.testing.assert_allclose(np.diag(table), 1.0)
        spread = found.category_spread[kind]
        assert spread.value == pytest.approx((table.sum() - 3) / 6)
        assert spread.low < spread.value < spread.high
        assert found.category_reliability[kind].shape == (3,)
    assert found.category_spread["refusal"].n == 3 * 14


def test_categories_without_refusals_and_answers_have_no_refusal_direction():
    given = panel([(True, True, None, name) for name in "xy" for _ in range(9)] + [HARMLESS] * 8)
    found = measure_directions(context_of(given))
    assert found.categories == ("x", "y") and set(found.category_cosines) == {"harmfulness"}
    assert set(found.category_spread) == {"harmfulness"}
    alone = measure_directions(context_of(panel([HARMFUL] * 9 + [HARMLESS] * 8)))
    assert alone.categories == ("a",) and alone.category_spread == {}


def test_the_organism_has_two_directions():
    context = small_context()
    found = measure_directions(context)
    assert found.cosine.mean.shape == (context.chat.layers + 1,)
    middle = found.state
    assert found.cosine.high[middle] < 0.6 and found.ceiling[middle] > 0.95
    assert found.cosine.low[middle] > found.random.high[middle]
    again = measure_directions(context)
    np.testing.assert_array_equal(found.cosine.low, again.cosine.low)
    assert torch.equal(harmfulness_direction(context.fit).values, harmfulness_direction(context.fit).values)
