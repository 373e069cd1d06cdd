#!/usr/bin/env bash
# The package on ARM, emulated: make test-arm. Builds a Debian for ARM under build/arm and runs in it what is quick enough.
# It tests imports and the arithmetic of sampler and layers; not speed, not bfloat16 of real processors,
# not the order of threads. Needs root and Debian: it installs qemu, and registers it for ARM programs while it runs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
arm=build/arm
root=$arm/root
misc=/proc/sys/fs/binfmt_misc
fail() { echo "test-arm: $1" >&2; exit 1; }

[ "$(uname -m)" = x86_64 ] || fail "this emulates ARM on x86-64, and here is $(uname -m): on ARM, make test does it"
[ "$(id -u)" = 0 ] || fail "it registers an emulator and enters a root of its own, so it needs root"
if [ ! -e /etc/debian_version ] || ! command -v apt-get >/dev/null; then fail "it needs Debian, whose packages it installs"; fi

# The programs, and the package that each comes in.
missing=()
for pair in qemu-aarch64-static=qemu-user-static mmdebstrap=mmdebstrap aarch64-linux-gnu-gcc=gcc-aarch64-linux-gnu readelf=binutils; do
  command -v "${pair%=*}" >/dev/null || missing+=("${pair#*=}")
done
if [ ${#missing[@]} -gt 0 ]; then
  { apt-get update -qq && apt-get install -qq -y --no-install-recommends "${missing[@]}" libc6-dev-arm64-cross; } >/dev/null \
    || fail "apt-get cannot install ${missing[*]}"
fi

# Undone at the end, whatever happens.
undo=()
trap 'for command in "${undo[@]}"; do eval "$command" || true; done' EXIT
if [ ! -e $misc/register ]; then
  mount -t binfmt_misc binfmt_misc $misc || fail "this system does not let root register an emulator (binfmt_misc)"
  undo=("umount $misc" "${undo[@]}")
fi
if [ ! -e $misc/qemu-aarch64 ]; then
  magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
  mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
  printf '%s' ":qemu-aarch64:M::$magic:$mask:$(command -v qemu-aarch64-static):F" >$misc/register \
    || fail "this system does not let root register an emulator (binfmt_misc)"
  undo=("echo -1 >$misc/qemu-aarch64" "${undo[@]}")
fi

step() { echo "--- $(date +%H:%M:%S) $1"; }
if [ ! -e $arm/.root ]; then
  step "a Debian for ARM"
  rm -rf $root
  mkdir -p $arm
  mmdebstrap --quiet --architectures=arm64 --variant=minbase --include=python3,python3-venv,libgomp1 bookworm $root
  touch $arm/.root
fi
if [ ! -e $arm/.site ] || [ constraints.txt -nt $arm/.site ]; then
  step "wheels for ARM"
  platforms=()
  for name in manylinux_2_34 manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014; do
    platforms+=(--platform "${name}_aarch64")
  done
  rm -rf $root/opt/site
  .venv/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --no-compile --only-binary=:all: \
    "${platforms[@]}" --python-version 3.11 --implementation cp --target $root/opt/site -r constraints.txt
  .venv/bin/python scripts/cuda_stubs.py $root/opt/site
  touch $arm/.site
fi

rm -rf $root/opt/project
mkdir -p $root/opt/project
tar -c --exclude=__pycache__ forethought tests pyproject.toml README.md LICENSE | tar -x -C $root/opt/project
# torch counts processors there; the host's own folder would tell it of another kind.
mkdir -p $root/sys/devices/system/cpu
for name in possible present online; do echo 0-1 >$root/sys/devices/system/cpu/$name; done
mount -t proc proc $root/proc
undo=("umount $root/proc" "${undo[@]}")
arm() {
  chroot $root /usr/bin/env -i PATH=/usr/bin:/bin HOME=/root LC_ALL=C.UTF-8 OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 \
    PYTHONPATH=/opt/project:/opt/site sh -c 'cd /opt/project && exec "$@"' sh "$@"
}

step "what it is"
arm python3 -m forethought --version
arm python3 -c "from forethought.machine import machine; here = machine(); print(here.kind, '-', here.bf16_fault or 'bfloat16')"
failed=0
for name in sampler onednn; do
  step "tests/test_$name.py"
  arm python3 -m pytest -q -p no:cacheprovider --durations=3 "tests/test_$name.py" || failed=1
done
step "a smoke run of two steps, up to the end of stage 1"
settings=()
for item in dtype=float32 audit.enabled=false improve.control=false improve.steps=2 improve.warmup_steps=0 \
  improve.prefixes_per_step=1 improve.rollouts=2 improve.monitor_every=0 improve.checkpoint_every=1; do
  settings+=("--set=$item")
done
rm -rf $root/tmp/run
arm python3 -m forethought run smoke --until improve --run /tmp/run "${settings[@]}" || failed=1
step "end"
exit $failed
