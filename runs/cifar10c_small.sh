#!/usr/bin/env bash
# CIFAR-10-C on two CPU cores with a ResNet-18 of a quarter of the width (0.7 M parameters): fifteen corruptions at
# severity 5, three seeds, CTA beside Source, PTBN, TENT and joint training; then CTA at 100 steps. Three quarters of an
# hour from the committed checkpoints; `bash runs/cifar10c_small.sh --train` makes them anew, less than two hours more. A
# kill costs the cell or the minute of training under way. Expected means: Source 60.0, PTBN 76.9, TENT 76.9, CTA 79.9,
# joint 82.0.
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
measure() {
  mkdir -p "$out$1" "$results$1"
  [ -z "$1" ] || ln -sfn ../cifar10c-small/checkpoints "$out$1/checkpoints"
  .venv/bin/crosstask bench $recipe --out "$out$1" "${@:2}"
  .venv/bin/crosstask report "$out$1"
  cp "$out$1"/{records.jsonl,config.toml} "$results$1/"
}
measure ""
measure -100-steps --set bench.images=128 --set 'bench.curve=[0, 1, 3, 5, 10, 20, 50, 100]' \
  --set 'bench.corruptions=["clean", "gaussian_noise", "defocus_blur", "fog", "contrast", "jpeg_compression"]' \
  --set 'bench.columns={source={method="source"}, cta={method="cta", arguments={steps=100}}}'
