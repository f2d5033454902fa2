#!/bin/bash
# What a card does, in at most ten minutes:
#
#   benchmarks/gpu.sh [FOLDER]           prints the results; records, logs and gpus.json go into FOLDER
#   benchmarks/gpu.sh --check [FOLDER]   the same commands with tiny sizes on a CPU, in about a minute
#
# Each part has its own time limit, and a part that fails leaves the others alone. PYTHON is the interpreter, by default that of .venv.

set -u
cd "$(dirname "$0")/.." || exit 2
check=
if [ "${1:-}" = --check ]; then check=1; shift; fi
out=$(mkdir -p "${1:-${TMPDIR:-/tmp}/gpu-$$}" && cd "${1:-${TMPDIR:-/tmp}/gpu-$$}" && pwd) || exit 2
python=${PYTHON:-$(if [ -x .venv/bin/python ]; then echo .venv/bin/python; else echo python3; fi)}
export WORKBENCH_OUTPUTS=$out/runs WORKBENCH_DATA=$out/data

if [ "$check" ]; then
  export OMP_NUM_THREADS=1
  device=cpu precision=fp32 fp16=bf16 steps=2 log=1 images=1 generated=10 patience=20
  first=step large=(--width 8 --batch 2) small=(--width 8 --batch 2) rounds=1
  batch256=(--width 8 --batch 4 --only options)  # which a CPU has none of: its step is that of step-128
  trained=(-p width 8 -p width_d 8 -p batch_size 4 -p num_classes 10 -p d_steps 1)
  planned=(-p preset imagenet128 -p width 8 -p batch_size 4 -p batch_norm_group none -p image_size 32 -p attention_g 16 -p attention_d 16)
else
  device=cuda precision=bf16 fp16=fp16 steps=200 log=10 images=500 generated=50000 patience=1
  first=step,options large=(--width 64 --batch 64) batch256=(--width 64 --batch 256 --only step) small=(--width 64 --batch 64) rounds=5
  trained=() planned=(-p preset imagenet128)
fi

failed=()
part() {  # part SECONDS NAME COMMAND...: run a part within its time limit; its output is printed and kept
  local limit=$(($1 * patience)) name=$2 start=$SECONDS
  shift 2
  printf '\n== %s\n' "$name"
  timeout --signal=INT --kill-after=5 "$limit" "$@" 2>&1 | tee "$out/$name.log"
  local status=${PIPESTATUS[0]}
  case $status in
    0) echo "-- $name: done after $((SECONDS - start)) s" ;;
    124 | 137) echo "-- $name: FAILED, no end after $limit s"; failed+=("$name") ;;
    *) echo "-- $name: FAILED with status $status"; failed+=("$name") ;;
  esac
}

bench() {  # bench SECONDS NAME ARGUMENTS...
  part "$1" "$2" "$python" -m workbench.bench --device $device --precision $precision --rounds $rounds --json "$out/$2.json" "${@:3}"
}

train() {  # train SECONDS NAME ARGUMENTS...
  part "$1" "$2" "$python" -m workbench.training -p device $device -p evaluate_every 0 -p sample_every 100 -p log_every $log "${@:3}"
}

fresh=(-p preset cifar10 -p data "$out/images" -p steps $((steps / 2)) -p checkpoint_every 100 "${trained[@]}")

bench 160 step-128 --size 128 --attention 32 "${large[@]}" --only $first
bench 110 step-32 --size 32 "${small[@]}" --only step,options
bench 70 batch-256-width-64 --size 128 --attention 32 "${batch256[@]}"
part 50 gpus "$python" -m benchmarks.gpu row "$out/gpus.json" -p device $device "${planned[@]}"
part 10 images "$python" -m benchmarks.gpu images "$out/images" --per-class $images
train 35 train-bf16 -p run bf16 -p mixed_precision bf16 "${fresh[@]}"
train 20 resume-bf16 -p resume bf16 -p steps $steps
train 35 train-fp16 -p run fp16 -p mixed_precision $fp16 "${fresh[@]}"
train 20 resume-fp16 -p resume fp16 -p steps $steps
part 10 losses "$python" -m benchmarks.gpu losses bf16 fp16
part 70 scores "$python" -m workbench.evaluation -p run bf16 -p n $generated -p device $device -p reference_n 0 \
  -p scores cs,fd -p extractor benchmarks.gpu:random_inception_network

printf '\nrecords and logs: %s\n' "$out"
[ "$check" ] || [ ! -f "$out/gpus.json" ] || echo "to keep the row of this card: cp $out/gpus.json workbench/training/gpus.json"
if [ ${#failed[@]} -gt 0 ]; then
  echo "FAILED: ${failed[*]}"
  exit 1
fi
echo "all parts done"
