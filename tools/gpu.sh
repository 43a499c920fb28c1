#!/usr/bin/env bash
# All that needs a CUDA GPU, in about 9 minutes: the notebooks and the device paths as tests, a
# whole run beside the CPU's, training and evaluation beside other ways. A part that fails does not
# end the rest. Logs go to $OUT, or to a new folder; a table comes last.
#
#   bash tools/gpu.sh [--cpu] [PART…]     --cpu, or no GPU: a try with small sizes; PART: only these
#
# PYTHON is the interpreter, python3 if unset; what the notebooks need must be importable.
set -u
cd "$(dirname "$0")/.." || exit
python=${PYTHON:-python3}
out=${OUT:-$(mktemp -d)}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
small=
if [ "${1:-}" = --cpu ]; then
  small=1
  shift
fi
only=" $* "
if [ "$small" ] || ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  small=1
  export CUDA_VISIBLE_DEVICES=
fi
"$python" -c 'import torch, transformers; print("torch", torch.__version__, "transformers",
  transformers.__version__, *([torch.cuda.get_device_name()] if torch.cuda.is_available() else []))'

# part NAME SECONDS COMMAND…: run it under a time limit; note its status, seconds and figures
part() {
  local name=$1 limit=$2 began=$SECONDS status figures
  shift 2
  case $only in "  " | *" $name "*) ;; *) return ;; esac
  timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1
  status=$?
  figures=$(grep '^= ' "$out/$name.log" | cut -c3-)
  [ "$figures" ] || figures=$(tail -n 1 "$out/$name.log" | cut -c1-160)
  case $status in 0) status=ok ;; 124 | 137) status="over ${limit} s" ;; *) status=failed ;; esac
  printf '%s\t%s\t%s\n' "$status" "$((SECONDS - began))" "$figures" >"$out/$name.row"
  echo "$name: $status, $((SECONDS - began)) s"
  [ "$status" = ok ] || tail -n 40 "$out/$name.log"
}

tests=("$python" -m pytest -q -p no:cacheprovider)
bench="$python -m tests.benchmarks"

if [ "$small" ]; then
  part notebooks 600 "${tests[@]}" notebooks/00_idea.ipynb
  part tests 600 "${tests[@]}" -m gpu tests/test_gpu.py
  part run 900 $bench.whole "$out/run" -p train.num_train_epochs=0.1 \
    -p infer.max_new_tokens=20
  part training 900 $bench.training try
  part evaluation 600 $bench.evaluation try
else
  # What is not timed runs beside each other.
  part notebooks 170 "${tests[@]}" notebooks &
  part tests 170 "${tests[@]}" -n 4 -m gpu tests/test_gpu.py &
  CUDA_VISIBLE_DEVICES='' part run-on-the-cpu 170 $bench.whole "$out/cpu" &
  wait
  part run 80 $bench.whole "$out/run"
  part training-distilgpt2 130 $bench.training cuda "DistilGPT2's shape"
  part evaluation 60 $bench.evaluation
  part training-smollm2 100 $bench.training cuda "SmolLM2's shape"
fi

ls "$out"/*.row >/dev/null 2>&1 || { echo "There is no part of that name: $*" >&2; exit 2; }
printf '\n%-22s%-14s%8s  %s\n' part status seconds figures
for row in $(ls -tr "$out"/*.row); do
  IFS=$'\t' read -r status seconds figures <"$row"
  printf '%-22s%-14s%8s  %s\n' "$(basename "$row" .row)" "$status" "$seconds" "$figures"
  tail -n +2 "$row" | sed 's/^/                                              /'
done
echo "The logs are in $out; tests/benchmarks/RESULTS.md has the tables."
! cut -s -f1 "$out"/*.row | grep -qv '^ok$'
