#!/usr/bin/env bash
# CIFAR-10-C on two CPU cores with a ResNet-18 of a quarter of the width (0.7 M parameters): fifteen corruptions at
# severity 5, three seeds, CTA beside Source, PTBN, TENT and its own updates of the supervised model; CTA at 100 steps
# (nine seeds of fewer images where corruptions are many); online, on streams of 40 batches; joint training, SimCLR
# beside the classifier for 24 epochs with labels from the supervised model; and the supervised model trained with
# AugMix. About four hours from the committed checkpoints, 45 minutes of it for the first table; `bash
# runs/cifar10c_small.sh --train` makes them anew: an hour and a half more, 38 minutes for `joint`, about an hour for
# AugMix. A kill costs the cell or the minute of training under way. Expected means: Source 60.6, PTBN 78.6, TENT 78.6,
# CTA 82.0, not aligned 81.0; joint 82.1; with AugMix Source 65.1, PTBN 79.5, TENT 79.6. With `--train` the first table
# is there after 134 minutes (60.4, 78.8, 78.9, 82.1 and 81.0 in results/cifar10c-small-again).
set -euo pipefail
cd "$(dirname "$0")/.."
recipe=runs/cifar10c-small.toml out=out/cifar10c-small results=results/cifar10c-small
mkdir -p $out{,-augmix}/checkpoints
anew=${1-}
train() { [ "$anew" != --train ] || .venv/bin/crosstask "$@"; }
if [ "$anew" != --train ]; then
  for run in "" -augmix; do cp -r $results$run/checkpoints/. $out$run/checkpoints/; done
fi
measure() {
  mkdir -p "$out$1" "$results$1"
  [ -e "$out$1/checkpoints" ] || ln -s ../cifar10c-small/checkpoints "$out$1/checkpoints"
  .venv/bin/crosstask bench $recipe --out "$out$1" "${@:2}"
  .venv/bin/crosstask report "$out$1"
  cp "$out$1"/{records.jsonl,config.toml} "$results$1/"
}
few=(--set 'bench.corruptions=["clean", "gaussian_noise", "defocus_blur", "fog", "contrast", "jpeg_compression"]')
rest=(--set 'bench.corruptions=["shot_noise", "impulse_noise", "glass_blur", "motion_blur", "zoom_blur", "snow", "frost",
  "brightness", "elastic_transform", "pixelate"]')
long=(--set 'bench.curve=[0, 1, 3, 5, 10, 20, 50, 100]'
  --set 'bench.columns={source={method="source"}, cta={method="cta", arguments={steps=100}}}')
train pretrain $recipe --out $out
train align $recipe --out $out
measure ""
measure -100-steps "${few[@]}" "${long[@]}"
measure -100-steps-rest "${rest[@]}" "${long[@]}" --set bench.images=128 --set 'bench.seeds=[0, 1, 2, 3, 4, 5, 6, 7, 8]'
online='method="cta", reset="corruption"'
measure -online "${few[@]}" --set bench.images=5120 --set 'bench.curve=[0, 20]' --set \
  "bench.columns={source={method=\"source\"}, cta={method=\"cta\"}, cta-online={$online, arguments={steps=1}}, \
cta-online-20={$online, arguments={steps=1, first_steps=20}}}"
train pretrain $recipe --out $out --only joint
measure -joint --set 'bench.columns={source={method="source"}, joint={method="cta", checkpoint="joint"}}'
peers='source={method="source"}, ptbn={method="ptbn"}, tent={method="tent"}'
train pretrain $recipe --out $out-augmix --set supervised.augmix=1 --only supervised
measure -augmix --set supervised.augmix=1 \
  --set "bench.columns={$peers, cta-unaligned={method=\"cta\", checkpoint=\"supervised\"}}"
