#!/usr/bin/env bash
# What is to be run on a machine with a GPU, built where there is none: the tests of the CUDA device, the benches, and the command.
#
#   benches/on_gpu.sh bundle        builds everything into target/gpu (no CUDA is needed)
#   target/gpu/run                  runs it, on the machine with the GPU: no Rust, no sources
#
# target/gpu can be copied anywhere. What it found is in gpu.log, in $OUT or else in the current directory; it ends with a summary, and
# with exit code 1 if a test failed or something could not be run.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
[ "$#" = 1 ] && [ "$1" = bundle ] || usage

bundle=target/gpu
# Bytes that the bundle may have.
most=$((60 << 20))

# The path of what cargo built of a kind and a name.
built() {
    python3 -c '
import json, sys
kind, name = sys.argv[1:]
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and kind in message["target"]["kind"] and message["target"]["name"] == name:
        print(message["executable"])
' "$@" | tail -n 1
}
build() { cargo "$@" --locked --features cuda --message-format json-render-diagnostics; }

rm -rf "$bundle"
mkdir -p "$bundle"
test_binary=$(build test --release --test cuda --no-run | built test cuda)
bench_binary=$(build bench --bench ratios --no-run | built bench ratios)
command_binary=$(build build --release --bin dolmen | built bin dolmen)
for binary in "$test_binary:cuda_tests" "$bench_binary:ratios" "$command_binary:dolmen"; do
    test -x "${binary%:*}"
    cp "${binary%:*}" "$bundle/${binary##*:}"
    strip "$bundle/${binary##*:}"
done

cat >"$bundle/run" <<'RUN'
#!/usr/bin/env bash
# Runs the tests and the benches of this bundle on this machine's GPU.
#
#   DOLMEN_CUDA_DEVICE    which GPU: 0 unless set
#   DOLMEN_BENCH_MIB      MiB of data: 4096 unless set; three times as much is needed on the disk, and in memory
#   DOLMEN_BENCH_DIR      where the files go: $TMPDIR or /tmp unless set
#   OUT                   where gpu.log goes: the current directory unless set
#   STEPS                 which of these: tests sanitizer benches command; all unless set
set -uo pipefail
bundle=$(cd "$(dirname "$0")" && pwd)
export DOLMEN_CUDA_DEVICE=${DOLMEN_CUDA_DEVICE:-0} RUST_BACKTRACE=1
export DOLMEN_BENCH_MIB=${DOLMEN_BENCH_MIB:-4096} DOLMEN_BENCH_DIR=${DOLMEN_BENCH_DIR:-${TMPDIR:-/tmp}}
log=${OUT:-.}/gpu.log
steps=" ${STEPS:-tests sanitizer benches command} "
summary=()
failed=0
: >"$log" || exit 1

# Runs a step, into the log, and remembers how it went.
step() {
    local name=$1 started=$SECONDS status=0
    shift
    echo "=== $name" | tee -a "$log"
    "$@" >>"$log" 2>&1 || status=$?
    if [ "$status" = 0 ]; then
        summary+=("$name: passed in $((SECONDS - started)) s")
    else
        summary+=("$name: FAILED with exit code $status")
        failed=1
    fi
}
wanted() { [[ "$steps" = *" $1 "* ]]; }

{ uname -a; nvidia-smi -L; nvidia-smi; } >>"$log" 2>&1
wanted tests && step "tests" "$bundle/cuda_tests" --test-threads=1
if wanted sanitizer; then
    sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | tail -n 1)
    if [ -n "$sanitizer" ]; then
        step "tests under compute-sanitizer" "$sanitizer" --tool memcheck --error-exitcode 97 --leak-check full \
            "$bundle/cuda_tests" --test-threads=1
    else
        summary+=("tests under compute-sanitizer: SKIPPED, it is not there")
    fi
fi
# Without a device the benches measure nothing, and say so.
benches() { "$bundle/ratios" --bench cuda | tee "$log.benches" && ! grep -q 'no CUDA device' "$log.benches"; }
wanted benches && step "benches" benches && rm -f "$log.benches"
if wanted command; then
    features=$(mktemp -d "$DOLMEN_BENCH_DIR/dolmen-gpu-XXXXXX")
    # Rows of 3,328 numbers without meaning, as a .npy.
    rows=$((DOLMEN_BENCH_MIB * 1048576 / 13312))
    header="{'descr': '<f4', 'fortran_order': False, 'shape': ($rows, 3328), }"
    printf -v header '%-117s\n' "$header"
    { printf '\x93NUMPY\x01\x00\x76\x00%s' "$header"; head -c $((rows * 13312)) /dev/urandom; } >"$features/data.npy"
    step "convert" "$bundle/dolmen" convert "$features/data.npy" "$features/data.dolmen"
    step "dolmen bench" "$bundle/dolmen" bench "$features/data.dolmen" --device "cuda:$DOLMEN_CUDA_DEVICE" --access map
    step "dolmen bench, shuffled" "$bundle/dolmen" bench "$features/data.dolmen" --device "cuda:$DOLMEN_CUDA_DEVICE" \
        --access map --shuffle --batch 32
    rm -rf "$features"
fi

{
    echo
    echo "=== summary"
    printf '%s\n' "${summary[@]}"
    grep -E '^test result:' "$log"
    # The rows of the table, and what was said besides.
    grep -E '^(\||- |batches|pinned copy|load_to_device|memcpy)' "$log"
} | tee -a "$log.tmp"
cat "$log.tmp" >>"$log" && rm "$log.tmp"
exit "$failed"
RUN
chmod +x "$bundle/run"

bytes=$(du -sb "$bundle" | cut -f 1)
[ "$bytes" -le "$most" ] || { echo "$bundle has $bytes bytes, and may have $most" >&2; exit 1; }
du -ah "$bundle"
