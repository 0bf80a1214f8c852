#!/bin/sh
# Builds tests/native/kernel_harness.cpp with the CPU kernels: build_harness.sh OUTPUT [extra compiler flags]
set -eu
cd "$(dirname "$0")/../.."
output=$1
shift
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT
avx2="-mavx2 -mfma -mf16c"
vnni="$avx2 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni"
compile() { # FOLDER FLAGS...
  folder=$1
  shift
  for source in csrc/cpu/"$folder"/*.cpp; do
    ${CXX:-g++} -std=c++20 -O3 -ffp-contract=off "$@" -c "$source" -o "$objects/$folder-$(basename "$source").o"
  done
}
compile reference "$@"
compile avx2 $avx2 "$@"
compile avx512vnni $vnni "$@"
compile amx $vnni -mamx-tile -mamx-int8 "$@"
${CXX:-g++} -std=c++20 -O2 -ffp-contract=off "$@" tests/native/kernel_harness.cpp csrc/cpu/features.cpp "$objects"/*.o -o "$output"
