#!/usr/bin/env bash
# Every method but ReC-TTT (no published figure to compare with, and a slow source model) on CIFAR-10, five corruptions at
# severity 5, one seed: the sign and rough size of each gain over Source. First 512 images a cell; then, for the methods
# that learn along a stream, 5,120. CIFAR-10 is looked for in $CROSSTASK_DATA and the cache, then fetched.
# About 55 minutes on two CPU cores; a kill costs the cell or the half minute of training under way.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/crosstask run runs/cifar10-all.toml

online='source={method="source"},ptbn={method="ptbn"}'
online+=',ptbn-ema={method="ptbn",reset="corruption",arguments={steps=1,batch_norm="ema",batch_share=0.1}}'
for method in tent eata sar shot t3a cotta rotta deyo roid ttt++ ttac; do
  online+=",\"$method\"={method=\"$method\",reset=\"corruption\"}"
done
mkdir -p out/cifar10-online
ln -sfn ../cifar10-all/checkpoints out/cifar10-online/checkpoints
.venv/bin/crosstask bench runs/cifar10-all.toml --out out/cifar10-online --set bench.images=5120 --set "bench.columns={$online}"
.venv/bin/crosstask report out/cifar10-online
for name in all online; do
  mkdir -p results/cifar10-$name
  cp out/cifar10-$name/{records.jsonl,config.toml} results/cifar10-$name/
done
