#!/bin/sh
# Builds tests/native/kernel_harness.cpp with the CPU kernels: build_harness.sh OUTPUT [extra compiler flags]
# TARGET=x86_64 or aarch64 picks the kernels; left out, it is this machine. Another architecture needs a cross compiler
# in CXX.
# OBJECTS keeps the object files in a folder; ONLY then names the sources to compile, and takes the other objects from it.
# EMULATE_AMX=1 compiles the AMX kernels against tests/native/amx_emulator.h, so that a machine with AVX512_BF16
# runs them.
set -eu
cd "$(dirname "$0")/../.."
output=$1
shift
objects=${OBJECTS:-$(mktemp -d)}
cxx="${CXX:-g++} -std=c++20 -O2 -ffp-contract=off"
jobs=$(mktemp) # a line of compiler arguments each
if [ -n "${OBJECTS:-}" ]; then
  trap 'rm -f "$jobs"' EXIT
else
  trap 'rm -rf "$jobs" "$objects"' EXIT
fi
compile_sources() { # "SOURCE..." FLAGS...
  sources=$1
  shift
  for source in $sources; do
    case " ${ONLY:-$source} " in
    *" $source "*) echo "$*" -c "$source" -o "$objects/$(echo "$source" | tr / -).o" >>"$jobs" ;;
    esac
  done
}
compile() { # FOLDER FLAGS...
  folder=$1
  shift
  compile_sources "$(echo csrc/cpu/"$folder"/*.cpp)" "$@"
}
compile reference "$@"
case "${TARGET:-$(uname -m)}" in
x86_64 | amd64)
  avx2="-mavx2 -mfma -mf16c"
  vnni="$avx2 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni"
  define=-DKDNATIVE_X86
  # The checks compute millions of fused multiply-adds: a call of the C library for each would take minutes.
  if grep -qw fma /proc/cpuinfo; then define="$define -mfma"; fi
  if [ -n "${EMULATE_AMX:-}" ]; then
    amx="-include tests/native/amx_emulator.h"
    define="$define -DKDNATIVE_EMULATE_AMX"
  else
    amx="-mamx-tile -mamx-int8 -mamx-bf16"
  fi
  compile avx2 $avx2 "$@"
  compile avxvnni $avx2 -mavxvnni "$@"
  compile avx512vnni $vnni "$@"
  compile avx512bf16 $vnni -mavx512bf16 "$@"
  compile amx $vnni -mavx512bf16 $amx "$@"
  ;;
aarch64 | arm64)
  define=-DKDNATIVE_ARM64
  arm=-fno-schedule-insns
  compile neon $arm -march=armv8.2-a+dotprod "$@"
  compile i8mm $arm -march=armv8.2-a+dotprod+i8mm "$@"
  ;;
*)
  define=
  ;;
esac
common="tests/native/kernel_harness.cpp tests/native/harness/*.cpp csrc/cpu/features.cpp csrc/cpu/dispatch.cpp csrc/cpu/sparse.cpp"
compile_sources "$(echo $common)" $define "$@"
xargs -r -P "$(nproc)" -L 1 $cxx <"$jobs"
$cxx "$@" "$objects"/*.o -o "$output"
