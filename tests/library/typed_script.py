"""A program of a user with every name of the public surface; `.ci/run` checks its types."""

import numpy as np

import dynashare_jax as ds


def main(folder: str) -> None:
  """Trains, explains and exports."""
  inputs = {"age": np.arange(100.0), "city": np.array(["Ulm", "Jena"] * 50)}
  labels = {"churn": np.arange(100) % 2, "spend": np.arange(100.0)}
  tasks = [
    ds.binary("churn", weight=0.5, positive_weight="balanced"),
    ds.regression("spend", unit="EUR", loss="huber"),
    ds.multiclass("grade", ["A", "B"], class_weights={"B": 2.5}),
    ds.multiclass("level", 3, class_weights="balanced"),
    ds.multilabel("worn", ["hat", "tie"], positive_weight=2.0),
  ]
  pixels = [
    ds.segmentation("ground", 3, class_weights=[1.0, 2.0, 1.0]),
    ds.depth("far", inverse=True),
    ds.normals("up"),
    ds.pixels("colour", outputs=3),
  ]
  names: list[str] = [task.name for task in (*tasks, *pixels)]
  data: ds.Data = ds.arrays(inputs, labels, tasks=tasks[:2], split=(0.7, 0.15, 0.15), seed=1)
  notes: tuple[str, ...] = data.notes
  run: ds.Run = ds.fit(data, method="dynashare", steps=100, settings={"model.width": 32})
  auc: float = run.metrics["churn"]["auc"]
  spend: np.ndarray = run.predict(inputs)["spend"]
  rates: np.ndarray | None = run.policy
  total: float = sum(run.evaluate(data, "test")["spend"].values())
  run.calibrate(0.6)
  curve = run.curve([0.4, 0.6])
  cost = run.cost()
  run.save(folder)
  run.export(folder)
  again = ds.load(folder)
  if isinstance(again, ds.Run):
    print(again.policy)
  table: ds.Comparison = ds.compare(data, ["single", "dynashare"], seeds=3)
  text: str = table.markdown() + table.csv() + table.latex()
  other: ds.Run = ds.run_config("rooms", {"train.batch_size": 32})
  print(names, notes, auc, spend, rates, total, curve, cost, again, text, other.report())


PIECES = (
  ds.balance.Balancer,
  ds.balance.State,
  ds.balance.available,
  ds.balance.make,
  ds.balance.settings,
  ds.balance.step,
  ds.balance.value_and_grad,
  ds.delta.Metric,
  ds.delta.RankTest,
  ds.delta.delta,
  ds.delta.delta_task,
  ds.delta.deltas,
  ds.delta.mean_rank,
  ds.delta.rank_test,
  ds.gates.Gate,
  ds.gates.hard_gate,
  ds.gates.instance,
  ds.gates.logistic_noise,
  ds.gates.mix,
  ds.gates.only,
  ds.metrics.Metric,
  ds.metrics.Metrics,
  ds.metrics.Sums,
  ds.metrics.available,
  ds.metrics.find,
  ds.policy.alpha,
  ds.policy.budget,
  ds.policy.conflict,
  ds.policy.draw_routes,
  ds.policy.entropy,
  ds.policy.init_logits,
  ds.policy.instance,
  ds.policy.open_mask,
  ds.policy.opened,
  ds.policy.random_routes,
  ds.policy.sample_routes,
  ds.policy.sharing,
  ds.policy.soft_choices,
  ds.policy.soft_decisions,
  ds.policy.sparsity,
  ds.policy.spread,
  ds.policy.temperature,
  ds.routes.Found,
  ds.routes.Plan,
  ds.routes.best,
  ds.routes.plan,
  ds.routes.runner,
  ds.routes.work,
)

if __name__ == "__main__":
  main("runs/mine")
