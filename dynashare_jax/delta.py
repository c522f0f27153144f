"""Delta: the relative gain of a multi-task network over single-task ones, and mean ranks.

```
metrics = {"seg": [delta.Metric("miou", True)], "depth": [delta.Metric("abs", False, "m")]}
run = {"seg": {"miou": 33.0}, "depth": {"abs": 0.45}}
single = {"seg": {"miou": 30.0}, "depth": {"abs": 0.50}}
delta.delta(delta.deltas(metrics, run, single))    # 10.0 percent: both are 10% better
```

`docs/pieces/delta.md` has a whole example, with ranks over several runs.

Source: DynaShare (Rahimian et al., CVPRW 2023), Eqs. 7 and 8.
"""

from __future__ import annotations

from dynashare_jax.objectives.delta import delta
from dynashare_jax.objectives.delta import delta_task
from dynashare_jax.objectives.delta import deltas
from dynashare_jax.objectives.delta import mean_rank
from dynashare_jax.objectives.delta import rank_test
from dynashare_jax.objectives.delta import RankTest
from dynashare_jax.types import Metric

__all__ = ["Metric", "RankTest", "delta", "delta_task", "deltas", "mean_rank", "rank_test"]
