from __future__ import annotations

import numpy as np

from undertow.studies.demo import DemoResult


def test_bands_hold_the_mean_and_every_cluster_is_counted(result: DemoResult):
    assert set(result.bands) == {"t_inst", "t_post"}
    for bands in result.bands.values():
        for band in bands:
            assert band.mean.shape == (result.guard.model.layers + 1,)
            assert (band.low <= band.mean + 1e-9).all() and (band.mean <= band.high + 1e-9).all()
        assert sum(band.n for band in bands if not band.control) == sum(cell.n for cell in result.cells)
        assert sum(band.control for band in bands) == 1


def test_jailbroken_and_over_refused_change_places(result: DemoResult):
    """Zhao et al., figure 2: at t_inst harm decides, at t_post refusal does."""

    def mean(position: str, name: str) -> float:
        return float(np.mean(next(band.mean for band in result.bands[position] if band.name == name)))

    assert mean("t_inst", "accepted harmful") > mean("t_inst", "refused harmless")
    assert mean("t_post", "accepted harmful") < mean("t_post", "refused harmless")
