# kdnative_isa(NAME FLAG...): one object library from csrc/cpu/NAME/*.cpp with that instruction set's flags and no others,
# so that wide instructions stay inside those objects and the rest runs on any machine.
function(kdnative_isa name)
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/cpu/${name}/*.cpp")
  add_library(kdnative_${name} OBJECT ${sources})
  # Without contraction every instruction set rounds alike; kernels that want a fused multiply-add say so.
  target_compile_options(kdnative_${name} PRIVATE -O3 -ffp-contract=off -Wall -Wextra ${ARGN})
  target_sources(_C PRIVATE $<TARGET_OBJECTS:kdnative_${name}>)
endfunction()
