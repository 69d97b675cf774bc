#!/usr/bin/env bash
# The models of cifar10c_small_longer.sh, aligned with views that AugMix has changed (`align.augmix = 1`): the same test
# images. 26 minutes of alignment on two CPU cores with `--train`, else the committed checkpoint; 19 minutes of measuring.
# A kill costs the cell or the minute of training under way. Expected means: Source 60.6, PTBN 78.6, aligned before any
# update 80.1, CTA 82.0.
set -euo pipefail
cd "$(dirname "$0")/.."
out=out/cifar10c-small-60-augmix results=results/cifar10c-small-60-augmix
recipe=(runs/cifar10c-small.toml --set supervised.epochs=60 --set align.augmix=1.0 --out $out)
mkdir -p $out/checkpoints $results
cp -r results/cifar10c-small/checkpoints/self-supervised results/cifar10c-small-60/checkpoints/supervised $out/checkpoints/
if [ "${1-}" = --train ]; then .venv/bin/crosstask align "${recipe[@]}"; else cp -r $results/checkpoints/. $out/checkpoints/; fi
columns='ptbn={method="ptbn"},ptbn-aligned={method="ptbn",checkpoint="aligned"},cta={method="cta"},source={method="source"}'
.venv/bin/crosstask bench "${recipe[@]}" --set "bench.columns={$columns}"
.venv/bin/crosstask report $out
cp $out/{records.jsonl,config.toml} $results/
