#!/usr/bin/env bash
# The figures of the README: the demo's models on five times its test images, beside TENT at 1 and 20 steps and on the
# aligned model; TENT online, where it learns over 40 batches; and CTA at 100 steps.
# Two CPU cores: 5 minutes for the demo (found if it is there), about 10 for the table, 4 for TENT online, 4 for the 100 steps.
# Expect: CTA about 85 %, 22 points above Source and 7 above PTBN and TENT. A kill costs the cell under way.
set -euo pipefail
cd "$(dirname "$0")/.."
demo=out/fashion-mnist
from=(--supervised $demo/checkpoints/supervised --aligned $demo/checkpoints/aligned)

.venv/bin/crosstask run fashion-mnist
.venv/bin/crosstask bench fashion-mnist "${from[@]}" --out out/fashion-mnist-table --set bench.images=640 \
  --set 'bench.columns.tent={method="tent",arguments={steps=1}}' \
  --set 'bench.columns.tent-20={method="tent",arguments={steps=20,learning_rate=3e-4}}' \
  --set 'bench.columns.tent-aligned={method="tent",checkpoint="aligned",arguments={steps=1}}'
.venv/bin/crosstask report out/fashion-mnist-table
.venv/bin/crosstask bench fashion-mnist "${from[@]}" --out out/fashion-mnist-online --set bench.images=5120 \
  --set 'bench.columns={source={method="source"},ptbn={method="ptbn"},tent-online={method="tent",reset="corruption",arguments={steps=1,learning_rate=3e-4}}}'
.venv/bin/crosstask report out/fashion-mnist-online
.venv/bin/crosstask bench fashion-mnist "${from[@]}" --out out/fashion-mnist-100-steps \
  --set 'bench.columns.cta={method="cta",arguments={steps=100}}' --set 'bench.curve=[0,1,3,5,10,20,50,100]'
.venv/bin/crosstask report out/fashion-mnist-100-steps
for name in table online 100-steps; do
  mkdir -p results/fashion-mnist-$name
  cp out/fashion-mnist-$name/{records.jsonl,config.toml} results/fashion-mnist-$name/
done
