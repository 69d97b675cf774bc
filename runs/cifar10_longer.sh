#!/usr/bin/env bash
# Do TTT and NC-TTT bring more than batch statistics when their source models train three times as long as in
# cifar10_all.sh? Each is measured beside its own model frozen, its own model under batch statistics, and, for NC-TTT, beside
# itself at a learning rate of nothing, where only the running averages move. Then the adaptation family on a wider and
# better model, and where all their gradients point. 18 epochs of each kind, five corruptions at severity 5, one seed.
# About 70 minutes on two CPU cores, most of it training; a kill costs the cell or the half minute of training under way.
set -euo pipefail
cd "$(dirname "$0")/.."
recipe=runs/cifar10-all.toml out=out/cifar10-longer
for kind in supervised ttt nc-ttt; do
  .venv/bin/crosstask pretrain $recipe --only $kind --out $out --set supervised.epochs=18
done
columns='source={method="source"},ptbn={method="ptbn"}'
for kind in ttt nc-ttt; do
  columns+=",\"$kind-frozen\"={method=\"source\",checkpoint=\"$kind\"}"
  columns+=",\"$kind-ptbn\"={method=\"ptbn\",checkpoint=\"$kind\"},\"$kind\"={method=\"$kind\"}"
done
columns+=',nc-ttt-averages={method="nc-ttt",arguments={learning_rate=1e-12}}'
columns+=',nc-ttt-faster={method="nc-ttt",arguments={learning_rate=1e-4}}'
columns+=',ttt-faster={method="ttt",arguments={learning_rate=1e-2}}'
.venv/bin/crosstask bench $recipe --out $out --set supervised.epochs=18 --set "bench.columns={$columns}"

narrow=out/cifar10-narrow
.venv/bin/crosstask pretrain $recipe --only supervised --out $narrow --set supervised.epochs=10 --set encoder=resnet18-narrow
columns='source={method="source"},ptbn={method="ptbn"}'
for method in tent eata sar shot deyo roid; do
  columns+=",$method={method=\"$method\",reset=\"corruption\"}"
done
.venv/bin/crosstask bench $recipe --out $narrow --set supervised.epochs=10 --set encoder=resnet18-narrow \
  --set bench.images=2560 --set "bench.columns={$columns}"
for folder in $out $narrow; do
  .venv/bin/crosstask report $folder
  .venv/bin/python runs/where_gradients_point.py $folder/checkpoints | tee $folder/gradients.txt
done
