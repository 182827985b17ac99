#!/usr/bin/env bash
# Builds the plans of @BUNDLE@ on a Jetson with JetPack @JETPACK@ (@TENSORRT@). Written by tp-export @VERSION@.
# Run it on the board once the weights are there, too: README.txt says how. Plans that are there are left alone.
# TRTEXEC=/path/to/trtexec takes another trtexec than the first on the PATH.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

fail() {
  printf 'build_on_device.sh: %s\n' "$*" >&2
  exit 1
}

trtexec=${TRTEXEC:-$(command -v trtexec || printf /usr/src/tensorrt/bin/trtexec)}
[[ -x $trtexec ]] || fail "there is no $trtexec: install JetPack's TensorRT (sudo apt install tensorrt), or set TRTEXEC"

# Its first line is: &&&& RUNNING TensorRT.trtexec [TensorRT v100300] ...
said=$("$trtexec" --help 2>&1 || true)
[[ $said =~ \[TensorRT\ v([0-9]+)\] ]] || fail "$trtexec does not say which TensorRT it is"
number=$((10#${BASH_REMATCH[1]}))
found=$((number / 100)) # 101303 is 10.13.3, and 8502 was 8.5.2
if ((number < 10000)); then found=$((100 * (number / 1000) + number / 100 % 10)); fi
if ((found < @FIRST@ || found > @LAST@)); then
  fail "these graphs are for @TENSORRT@, and this board has $((found / 100)).$((found % 100)):" \
    "write them anew with the --jetpack of this board"
fi

while read -r _ file; do
  [[ -f $file ]] || fail "$file is missing: copy it as README.txt says"
done <SHA256SUMS
sha256sum --check --quiet --strict SHA256SUMS || fail "a file is not what it was: copy it again"

mkdir -p plans logs
build() { # PART, and what trtexec is told
  local part=$1 plan=plans/$1.plan log=logs/$1.log started=$SECONDS why
  shift
  if [[ -f $plan ]]; then
    printf '%s: there already\n' "$part"
    return
  fi
  if ! "$trtexec" "$@" --saveEngine="$plan.part" >"$log" 2>&1 || [[ ! -s $plan.part ]]; then
    rm -f -- "$plan.part"
    why=$(grep -m 1 -F '[E]' -- "$log" || true)
    fail "$part failed: ${why:-trtexec gave no reason} ($log)"
  fi
  mv -- "$plan.part" "$plan"
  printf '%s: built in %d s, %d MB\n' "$part" "$((SECONDS - started))" "$(($(stat -c %s -- "$plan") / 1000000))"
}

@COMMANDS@

printf 'all plans are in plans/\n'
