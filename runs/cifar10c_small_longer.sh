#!/usr/bin/env bash
# Is the teacher the bound? The small lane with a supervised stage twice as long, 60 epochs, as many as joint training has in
# sum (30 and 30): then alignment and the same test images as in cifar10c_small.sh, CTA's updates of the supervised model
# itself beside it; and online CTA on streams of 40 batches beside CTA reset before each. 70 minutes of training on two CPU
# cores, and 65 of measuring; from the committed checkpoints unless `--train` is given. Expected means: CTA 81.5, not
# aligned 81.0, `joint` (of cifar10c_small.sh) 82.0; online, 20 steps on the first batch, 0.3 below 20 on each.
set -euo pipefail
cd "$(dirname "$0")/.."
out=out/cifar10c-small-60 results=results/cifar10c-small-60
recipe=(runs/cifar10c-small.toml --set supervised.epochs=60)
mkdir -p $out/checkpoints $out-online
cp -r results/cifar10c-small/checkpoints/self-supervised $out/checkpoints/
if [ "${1-}" = --train ]; then
  .venv/bin/crosstask pretrain "${recipe[@]}" --only supervised --out $out
  .venv/bin/crosstask align "${recipe[@]}" --out $out
else
  cp -r $results/checkpoints/. $out/checkpoints/
fi
plain='source={method="source"},cta={method="cta"},cta-online={method="cta",reset="corruption",arguments={steps=1}}'
first='cta-online-20={method="cta",reset="corruption",arguments={steps=1,first_steps=20}}'
more='ptbn={method="ptbn"},tent={method="tent"},frozen-aligned={method="source",checkpoint="aligned"}'
more+=',tent-aligned={method="tent",checkpoint="aligned"},cta-unaligned={method="cta",checkpoint="supervised"}'
.venv/bin/crosstask bench "${recipe[@]}" --out $out --set "bench.columns={$plain,$more}"
ln -sfn ../cifar10c-small-60/checkpoints $out-online/checkpoints
.venv/bin/crosstask bench "${recipe[@]}" --out $out-online --set bench.images=5120 --set 'bench.seeds=[0]' \
  --set 'bench.curve=[0,20]' --set "bench.columns={$plain,$first}" \
  --set 'bench.corruptions=["clean","gaussian_noise","defocus_blur","fog","contrast","jpeg_compression"]'
for name in "" -online; do
  .venv/bin/crosstask report $out$name
  mkdir -p $results$name
  cp $out$name/{records.jsonl,config.toml} $results$name/
done
