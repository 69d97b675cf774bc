#!/usr/bin/env bash
# The demo's models (`make demo` first) under other protocols: five corruptions in a row that end in clean images, never
# reset; corruptions mixed with classes in clumps; and a stream that does not wait. Minutes each on two CPU cores.
# Expected means: continual Source 47.2, PTBN 67.4, TENT 67.8, CTA 80.5; wild Source 62.2, PTBN 27.1, TENT 22.7, CTA 30.6,
# with its memory 70.9.
set -euo pipefail
cd "$(dirname "$0")/.."
measure() {
  mkdir -p "out/fashion-mnist-$1"
  ln -sfn ../fashion-mnist/checkpoints "out/fashion-mnist-$1/checkpoints"
  .venv/bin/crosstask bench fashion-mnist --out "out/fashion-mnist-$1" "${@:2}"
  .venv/bin/crosstask report "out/fashion-mnist-$1"
  mkdir -p "results/fashion-mnist-$1"
  cp "out/fashion-mnist-$1"/{records.jsonl,config.toml} "results/fashion-mnist-$1/"
}
measure continual --set bench.protocol=continual --set bench.images=640 \
  --set 'bench.corruptions=["gaussian_noise", "fog", "contrast", "brightness", "pixelate", "clean"]'
memory='steps=1,memory=64,batch_norm="robust",batch_share=0.05,learning_rate=1e-3'
measure wild --set bench.protocol=wild --set bench.images=320 \
  --set "bench.columns.cta-memory={method=\"cta\",arguments={$memory}}"
measure rate --set bench.rate=0.25 --set bench.images=640 --set 'bench.corruptions=["fog", "contrast"]' \
  --set 'bench.columns.tent.reset="corruption"'
