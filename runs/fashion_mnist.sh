#!/usr/bin/env bash
# The figures of the README: the demo's models, five times its test images, TENT in three forms, and CTA at 100 steps.
# Two CPU cores: 5 minutes for the demo (found if it is there), about 8 for the table, about 4 for the 100 steps.
# Expect: CTA about 84 %, 20 points above Source and 4 above PTBN and TENT. A kill costs the cell under way.
set -euo pipefail
cd "$(dirname "$0")/.."
demo=out/fashion-mnist
from=(--supervised $demo/checkpoints/supervised --aligned $demo/checkpoints/aligned)

.venv/bin/crosstask run fashion-mnist
.venv/bin/crosstask bench fashion-mnist "${from[@]}" --out out/fashion-mnist-table --set bench.images=640 \
  --set 'bench.columns.tent={method="tent",arguments={steps=1}}' \
  --set 'bench.columns.tent-20={method="tent",arguments={steps=20}}' \
  --set 'bench.columns.tent-online={method="tent",reset="corruption",arguments={steps=1}}'
.venv/bin/crosstask report out/fashion-mnist-table
.venv/bin/crosstask bench fashion-mnist "${from[@]}" --out out/fashion-mnist-100-steps \
  --set 'bench.columns.cta={method="cta",arguments={steps=100}}' --set 'bench.curve=[0,1,3,5,10,20,50,100]'
.venv/bin/crosstask report out/fashion-mnist-100-steps
for name in table 100-steps; do
  mkdir -p results/fashion-mnist-$name
  cp out/fashion-mnist-$name/{records.jsonl,config.toml} results/fashion-mnist-$name/
done
