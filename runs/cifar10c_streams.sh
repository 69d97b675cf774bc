#!/usr/bin/env bash
# Streams that are not i.i.d., for the committed small models: all fifteen corruptions and clean images, severity 5, three
# seeds, never reset, each batch predicted before the step on it. One step a batch, but one in 64 images for CTA with its
# memory and for RoTTA. In turn: corruptions mixed, classes in clumps, batches of 16 (the preset `wild`); likewise, fewer images,
# one at a time; one corruption after another, classes in clumps, batches of 64; and classes at random, batches of 200 (the
# preset `continual`). Minutes each on two CPU cores. Settings: validation images (`runs/choose_cifar10.py`, rows "online").
set -euo pipefail
cd "$(dirname "$0")/.."
always='reset="never",predict="before"'
columns="source={method=\"source\",$always},ptbn={method=\"ptbn\",$always},rotta={method=\"rotta\",$always}"
columns+=",tent={method=\"tent\",$always,arguments={steps=1}},cta={method=\"cta\",$always,arguments={steps=1}}"
columns+=",cta-memory={method=\"cta\",$always,arguments={steps=1,memory=64,batch_norm=\"robust\",batch_share=0.05,learning_rate=1e-3}}"
columns+=",frozen-aligned={method=\"source\",checkpoint=\"aligned\",$always}"
measure() {
  out=out/cifar10c-streams-$1 results=results/cifar10c-streams-$1
  mkdir -p "$out" "$results"
  ln -sfn ../../results/cifar10c-small/checkpoints "$out/checkpoints"
  .venv/bin/crosstask bench runs/cifar10c-small.toml --out "$out" --set "bench.columns={$columns}" "${@:2}"
  .venv/bin/crosstask report "$out"
  cp "$out"/{records.jsonl,config.toml} "$results/"
}
measure wild --set bench.protocol=wild --set bench.images=192
measure one-by-one --set bench.shift=mixed --set bench.delta=0.1 --set bench.batch_size=1 --set bench.images=32
measure clumps --set bench.shift=continual --set bench.delta=0.1 --set bench.batch_size=64 --set bench.images=256
measure continual --set bench.protocol=continual --set bench.images=200
