from __future__ import annotations

from undertow.studies.beliefs.claims import CLAIMS, FOREMOST, REFERENCES, STUDY


def test_the_eight_claims_stand_first() -> None:
    assert len(CLAIMS) == 8
    assert FOREMOST[:8] == tuple(f"{STUDY}.{name}" for _, name in CLAIMS)
    assert len(set(FOREMOST)) == len(FOREMOST)


def test_published_figures_are_shares_with_their_source() -> None:
    for value, source in REFERENCES.values():
        assert 0 <= value <= 1
        assert "2507.11878" in source and ("table" in source or "figure" in source)
