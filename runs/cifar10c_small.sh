#!/usr/bin/env bash
# CIFAR-10-C on two CPU cores with a ResNet-18 of a quarter of the width (0.7 M parameters): fifteen corruptions at
# severity 5, three seeds, CTA beside Source, PTBN and TENT. Starts from the committed checkpoints, about 11 minutes;
# `bash runs/cifar10c_small.sh --train` makes them anew, about 75 more. Resumable: a kill costs the cell or the minute of
# training under way. Expected means: Source 59.6, PTBN 75.9, TENT 75.9, CTA 75.6.
set -euo pipefail
cd "$(dirname "$0")/.."
recipe=runs/cifar10c-small.toml out=out/cifar10c-small results=results/cifar10c-small
mkdir -p $out/checkpoints
if [ "${1-}" = --train ]; then
  .venv/bin/crosstask pretrain $recipe --out $out
  .venv/bin/crosstask align $recipe --out $out
else
  cp -r $results/checkpoints/. $out/checkpoints/
fi
.venv/bin/crosstask bench $recipe --out $out
.venv/bin/crosstask report $out
cp $out/{records.jsonl,config.toml} $results/
