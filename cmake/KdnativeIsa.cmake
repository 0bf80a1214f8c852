# kdnative_isa(NAME EXTENDS BASE SHARED SOURCE... FLAGS FLAG...): one object library from csrc/cpu/NAME/*.cpp and the
# sources of csrc/cpu/simd that are written for any width of vectors, with that instruction set's flags and no others, so
# that wide instructions stay inside those objects and the rest runs on any machine.
#
# KDNATIVE_ISAS leaves out the sets that it doesn't name. A set that is built brings the one that it extends, so the calls
# go from the widest set down; kdnative_isas_done() then refuses names that no call had.
function(kdnative_isa name)
  cmake_parse_arguments(PARSE_ARGV 1 isa "" "EXTENDS" "SHARED;FLAGS")
  list(APPEND known_isas ${name})
  set(known_isas ${known_isas} PARENT_SCOPE)
  if(wanted_isas AND NOT name IN_LIST wanted_isas)
    return()
  endif()
  list(APPEND wanted_isas ${isa_EXTENDS})
  if(KDNATIVE_ISAS)
    set(wanted_isas ${wanted_isas} PARENT_SCOPE)
  endif()
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/cpu/${name}/*.cpp")
  list(TRANSFORM isa_SHARED PREPEND "${CMAKE_CURRENT_SOURCE_DIR}/cpu/simd/")
  list(TRANSFORM isa_SHARED APPEND ".cpp")
  add_library(kdnative_${name} OBJECT ${sources} ${isa_SHARED})
  target_compile_definitions(kdnative_${name} PRIVATE KDNATIVE_ISA=${name})  # the namespace of the shared sources
  # Without contraction every instruction set rounds alike; kernels that want a fused multiply-add say so.
  target_compile_options(kdnative_${name} PRIVATE -O3 -ffp-contract=off -Wall -Wextra ${isa_FLAGS})
  target_compile_definitions(_C PRIVATE KDNATIVE_HAS_${name})  # tables.cpp
  target_sources(_C PRIVATE $<TARGET_OBJECTS:kdnative_${name}>)
endfunction()

function(kdnative_isas_done)
  set(unknown ${wanted_isas})
  list(REMOVE_ITEM unknown ${known_isas})
  if(unknown)
    list(JOIN unknown ", " unknown)
    list(JOIN known_isas ", " known)
    message(FATAL_ERROR "KDNATIVE_ISAS names ${unknown}. For ${CMAKE_SYSTEM_PROCESSOR} there are: ${known}. "
                        "Name some of these, separated by commas, or leave it empty for all.")
  endif()
endfunction()
