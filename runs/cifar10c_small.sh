#!/usr/bin/env bash
# CIFAR-10-C on two CPU cores with a ResNet-18 of a quarter of the width (0.7 M parameters): fifteen corruptions at
# severity 5, three seeds, CTA beside Source, PTBN and TENT; then other protocols. Starts from the committed checkpoints;
# `bash runs/cifar10c_small.sh --train` makes them anew, about 75 minutes. The rest takes about 25. Resumable: a kill costs
# the cell or the minute of training under way.
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

measure() {  # NAME SETTING...: a bench of its own on the same checkpoints
  mkdir -p $out$1
  [ -z "$1" ] || ln -sfn ../cifar10c-small/checkpoints $out$1/checkpoints
  .venv/bin/crosstask bench $recipe --out $out$1 "${@:2}"
  .venv/bin/crosstask report $out$1
  mkdir -p $results$1
  cp $out$1/{records.jsonl,config.toml} $results$1/
}
frozen='source={method="source"},aligned={method="source",checkpoint="aligned"},ptbn={method="ptbn"}'
online='tent={method="tent",reset="corruption"},cta={method="cta",reset="corruption",arguments={steps=1}}'
measure ""
measure -clean --set 'bench.corruptions=["clean"]' --set bench.images=1280
measure -online --set bench.images=2560 --set bench.seeds=[0] --set "bench.columns={$frozen,$online}"
measure -100-steps --set bench.images=128 --set bench.seeds=[0] --set bench.curve=[0,1,5,10,20,50,100] \
  --set 'bench.columns={source={method="source"},cta={method="cta",arguments={steps=100}}}'
