#!/bin/sh
# Builds tests/native/kernel_harness.cpp with the CPU kernels: build_harness.sh OUTPUT [extra compiler flags]
# EMULATE_AMX=1 compiles the AMX kernels against tests/native/amx_emulator.h, so that any AVX-512 machine runs them.
set -eu
cd "$(dirname "$0")/../.."
output=$1
shift
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT
cxx="${CXX:-g++} -std=c++20 -O2 -ffp-contract=off"
avx2="-mavx2 -mfma -mf16c"
vnni="$avx2 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni"
if [ -n "${EMULATE_AMX:-}" ]; then
  amx="-include tests/native/amx_emulator.h"
  harness=-DKDNATIVE_EMULATE_AMX
else
  amx="-mamx-tile -mamx-int8"
  harness=
fi
compile() { # FOLDER FLAGS...
  folder=$1
  shift
  for source in csrc/cpu/"$folder"/*.cpp; do
    $cxx "$@" -c "$source" -o "$objects/$folder-$(basename "$source").o"
  done
}
compile reference "$@"
compile avx2 $avx2 "$@"
compile avx512vnni $vnni "$@"
compile amx $vnni $amx "$@"
$cxx $harness "$@" tests/native/kernel_harness.cpp csrc/cpu/features.cpp "$objects"/*.o -o "$output"
