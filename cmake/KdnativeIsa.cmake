# kdnative_isa(NAME SHARED SOURCE... FLAGS FLAG...): one object library from csrc/cpu/NAME/*.cpp and the sources of
# csrc/cpu/simd that are written for any width of vectors, with that instruction set's flags and no others, so that wide
# instructions stay inside those objects and the rest runs on any machine.
function(kdnative_isa name)
  cmake_parse_arguments(PARSE_ARGV 1 isa "" "" "SHARED;FLAGS")
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/cpu/${name}/*.cpp")
  list(TRANSFORM isa_SHARED PREPEND "${CMAKE_CURRENT_SOURCE_DIR}/cpu/simd/")
  list(TRANSFORM isa_SHARED APPEND ".cpp")
  add_library(kdnative_${name} OBJECT ${sources} ${isa_SHARED})
  target_compile_definitions(kdnative_${name} PRIVATE KDNATIVE_ISA=${name})  # the namespace of the shared sources
  # Without contraction every instruction set rounds alike; kernels that want a fused multiply-add say so.
  target_compile_options(kdnative_${name} PRIVATE -O3 -ffp-contract=off -Wall -Wextra ${isa_FLAGS})
  target_sources(_C PRIVATE $<TARGET_OBJECTS:kdnative_${name}>)
endfunction()
