#!/bin/sh
# Builds tests/native/kernel_harness.cpp with the CPU kernels: build_harness.sh OUTPUT [extra compiler flags]
# TARGET=x86_64 or aarch64 picks the kernels; left out, it is this machine. Another architecture needs a cross compiler
# in CXX.
# OBJECTS keeps the object files in a folder; ONLY then names the objects to compile, and takes the others from it.
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
compile_sources() { # NAME "SOURCE..." FLAGS...: the object of a source is NAME-SOURCE.o, with dashes for slashes
  name=$1
  sources=$2
  shift 2
  for source in $sources; do
    object=$name-$(echo "$source" | tr / -).o
    case " ${ONLY:-$object} " in
    *" $object "*) echo "$*" -c "$source" -o "$objects/$object" >>"$jobs" ;;
    esac
  done
}
compile() { # SET "SHARED SOURCE..." FLAGS...: the folder of an instruction set, and its share of csrc/cpu/simd
  set_name=$1
  sources=$(echo csrc/cpu/"$1"/*.cpp)
  for shared in $2; do sources="$sources csrc/cpu/simd/$shared.cpp"; done
  shift 2
  define="$define -DKDNATIVE_HAS_$set_name"
  compile_sources "$set_name" "$sources" -DKDNATIVE_ISA="$set_name" "$@"
}
define=
vec="quantize gemm_a16 transformer codes pixels"
compile reference "gemm_a16 gemm_two_level transformer" "$@"
case "${TARGET:-$(uname -m)}" in
x86_64 | amd64)
  avx2="-mavx2 -mfma -mf16c"
  vnni="$avx2 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni"
  # The checks compute millions of fused multiply-adds: a call of the C library for each would take minutes.
  if grep -qw fma /proc/cpuinfo; then define="$define -mfma"; fi
  if [ -n "${EMULATE_AMX:-}" ]; then
    amx="-include tests/native/amx_emulator.h"
    define="$define -DKDNATIVE_EMULATE_AMX"
  else
    amx="-mamx-tile -mamx-int8 -mamx-bf16"
  fi
  compile avx2 "$vec" $avx2 "$@"
  compile avxvnni "" $avx2 -mavxvnni "$@"
  compile avx512vnni "$vec" $vnni "$@"
  compile avx512bf16 "" $vnni -mavx512bf16 "$@"
  compile amx "" $vnni -mavx512bf16 $amx "$@"
  ;;
aarch64 | arm64)
  arm=-fno-schedule-insns
  compile neon "$vec gemm_two_level" $arm -march=armv8.2-a+dotprod "$@"
  compile i8mm gemm_two_level $arm -march=armv8.2-a+dotprod+i8mm "$@"
  ;;
esac
common="tests/native/kernel_harness.cpp tests/native/harness/*.cpp csrc/cpu/features.cpp csrc/cpu/dispatch.cpp csrc/cpu/tables.cpp csrc/cpu/sparse.cpp"
compile_sources harness "$(echo $common)" $define "$@"
xargs -r -P "$(nproc)" -L 1 $cxx <"$jobs"
$cxx "$@" "$objects"/*.o -o "$output"
