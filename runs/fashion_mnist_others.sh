#!/usr/bin/env bash
# Does it hold for other encoders, and for other self-supervised tasks than SimCLR? The demo's schedule on Fashion-MNIST
# without AugMix: 55,000 images to train on and 5,000 on which every learning column gets its learning rate under held-out
# corruptions; then clean images and four corruptions at severity 5, three seeds x 256 images. Eight minutes a task, the
# encoder with group norm 45, the others 20 to 35. Expected (CTA, TENT): vicreg 81.0, rotation 75.9, both 64.7; byol 78.9,
# 66.2; resnet18-narrow-gn 70.5, 65.5; vit-lite-narrow 63.9, 42.9; convnext-narrow 59.8, 42.2.
# `bash runs/fashion_mnist_others.sh [NAME ...]` measures those named alone; a kill costs the cell or the stage under way.
set -euo pipefail
cd "$(dirname "$0")/.."
columns='source={method="source"},tent={method="tent",arguments={steps=20}},cta={method="cta",arguments={steps=20}}'
measure() {
  out=out/fashion-mnist-$1
  .venv/bin/crosstask run fashion-mnist --out "$out" --set "name=\"fashion-mnist-$1\"" --set data.validation=5000 \
    --set align.augmix=0 --set "bench.columns={$columns}" --set bench.images=256 \
    --set 'bench.corruptions=["clean","gaussian_noise","fog","contrast","pixelate"]' \
    --set 'tune.steps=[20]' --set 'tune.factors=[0.03,0.1,0.3,1.0,3.0]' "${@:2}"
  mkdir -p "results/fashion-mnist-$1"
  cp "$out"/{records.jsonl,config.toml,tuned.toml} "results/fashion-mnist-$1/"
}
rate() { echo "--set supervised.learning_rate=$1 --set self_supervised.learning_rate=$1 --set align.learning_rate=$1"; }
[ $# -gt 0 ] || set -- simclr vicreg barlow-twins byol rotation resnet18-narrow-gn convnext-narrow vit-lite-narrow
for name in "$@"; do
  case $name in
    simclr) measure "$name" ;;
    vicreg) measure "$name" --set task.name=vicreg --set 'task.arguments={invariance=1.0,variance=1.0,covariance=0.04}' ;;
    barlow-twins | byol | rotation) measure "$name" --set task.name="$name" ;;
    resnet18-narrow-gn) measure "$name" --set encoder="$name" ;;
    convnext-narrow) measure "$name" --set encoder="$name" $(rate 0.03) ;;
    vit-lite-narrow) measure "$name" --set encoder="$name" $(rate 0.01) ;;
    *) echo "no such run: $name" >&2; exit 2 ;;
  esac
done
