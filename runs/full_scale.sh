#!/usr/bin/env bash
# What cifar10c.sh, cifar100c.sh and tinyimagenetc.sh share: `full_scale.sh NAME DATA TABLE [ENCODER] [--all] [SETTING ...]`.
# With --all every method is measured, each on a source model of its own where it needs one (MEMO is left out: it goes
# image by image). SETTINGs are those of `crosstask run`, as `--set bench.images=1000`. A kill costs the cell or the
# seconds of training under way, so it may run in pieces: `timeout 590 bash runs/cifar10c.sh resnet18`, again and again.
set -euo pipefail
cd "$(dirname "$0")/.."
run=$1 data=$2 table=$3 encoder=resnet18
shift 3
if [ $# -gt 0 ] && [[ $1 != -* ]]; then
  encoder=$1
  shift
fi
name=$run-$encoder
settings=(--out "out/$name" --set "name=\"$name\"" --set "data.name=\"$data\"" --set "bench.table=\"$table\"")
settings+=(--set "encoder=\"$encoder\"")
if [ "${1-}" = --all ]; then
  shift
  for method in eata sar shot cotta rotta deyo roid t3a ttt++ ttac; do
    settings+=(--set "bench.columns.$method={method=\"$method\",reset=\"corruption\"}")
  done
  for method in lame ttt; do
    settings+=(--set "bench.columns.$method={method=\"$method\"}")
  done
  for method in tttflow clust3 nc-ttt rec-ttt; do
    settings+=(--set "bench.columns.$method={method=\"$method\",arguments={steps=20}}")
  done
  settings+=(--set 'bench.columns.joint={method="cta",checkpoint="joint"}')
fi
.venv/bin/crosstask run runs/full-scale.toml "${settings[@]}" "$@"
mkdir -p "results/$name"
cp "out/$name"/{records.jsonl,config.toml} "results/$name/"
