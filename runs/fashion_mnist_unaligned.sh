#!/usr/bin/env bash
# What do CTA's updates do to a classifier without batch norm that was never aligned, at the rate that suits it? The supervised
# stage of fashion_mnist_others.sh alone, then NT-Xent on its features: the rate by held-out corruptions of the 5,000 images kept
# back, then the same test images. Two CPU cores, one thread: 18 minutes for the ViT and 13 for the ConvNeXt besides their
# training; a kill costs the cell or the stage under way. Expected means of the four corruptions (Source, not aligned):
# vit-lite-narrow 43.4, 44.0; convnext-narrow 42.3, 42.9. `bash runs/fashion_mnist_unaligned.sh [NAME ...]` measures those
# named alone.
set -euo pipefail
cd "$(dirname "$0")/.."
columns='source={method="source"},cta-unaligned={method="cta",checkpoint="supervised",arguments={steps=20}}'
[ $# -gt 0 ] || set -- convnext-narrow vit-lite-narrow
for name in "$@"; do
  case $name in
    convnext-narrow) rate=0.03 ;;
    vit-lite-narrow) rate=0.01 ;;
    *) echo "no such run: $name" >&2; exit 2 ;;
  esac
  out=out/fashion-mnist-unaligned-$name
  recipe=(fashion-mnist --out "$out" --set "name=\"fashion-mnist-unaligned-$name\"" --set data.validation=5000
    --set encoder="$name" --set supervised.learning_rate=$rate --set "bench.columns={$columns}" --set bench.images=256
    --set 'bench.corruptions=["clean","gaussian_noise","fog","contrast","pixelate"]'
    --set 'tune.steps=[20]' --set 'tune.factors=[0.01,0.03,0.1,0.3,1.0]')
  .venv/bin/crosstask pretrain "${recipe[@]}" --only supervised
  .venv/bin/crosstask tune "${recipe[@]}"
  .venv/bin/crosstask bench "${recipe[@]}"
  mkdir -p "results/fashion-mnist-unaligned-$name"
  cp "$out"/{records.jsonl,config.toml,tuned.toml} "results/fashion-mnist-unaligned-$name/"
done
