#!/usr/bin/env bash
# What do CTA's updates do to a classifier that was never aligned, with batch norm and without? The supervised stage alone
# of fashion_mnist_others.sh, then NT-Xent on its features, at the rate that suits it under held-out corruptions; the same
# test images. Two CPU cores: 5 minutes for resnet-small, 10 to 25 for the others; a kill costs the cell or the stage under way.
# Expected (clean, and the mean of four corruptions, before and after 20 updates): see docs/log.md, 2026-11-30.
# `bash runs/fashion_mnist_unaligned.sh [NAME ...]` measures those named alone.
set -euo pipefail
cd "$(dirname "$0")/.."
columns='source={method="source"},cta-unaligned={method="cta",checkpoint="supervised",arguments={steps=20}}'
[ $# -gt 0 ] || set -- resnet-small convnext-narrow resnet18-narrow-gn vit-lite-narrow
for name in "$@"; do
  case $name in
    convnext-narrow) rate=0.03 ;;
    vit-lite-narrow) rate=0.01 ;;
    *) rate=0.1 ;;
  esac
  out=out/fashion-mnist-unaligned-$name
  recipe=(fashion-mnist --out "$out" --set "name=\"fashion-mnist-unaligned-$name\"" --set data.validation=5000
    --set encoder="$name" --set supervised.learning_rate=$rate --set "bench.columns={$columns}" --set bench.images=256
    --set 'bench.corruptions=["clean","gaussian_noise","fog","contrast","pixelate"]'
    --set 'tune.steps=[20]' --set 'tune.factors=[0.03,0.1,0.3,1.0,3.0]')
  .venv/bin/crosstask pretrain "${recipe[@]}" --only supervised
  .venv/bin/crosstask tune "${recipe[@]}"
  .venv/bin/crosstask bench "${recipe[@]}"
  mkdir -p "results/fashion-mnist-unaligned-$name"
  cp "$out"/{records.jsonl,config.toml,tuned.toml} "results/fashion-mnist-unaligned-$name/"
done
