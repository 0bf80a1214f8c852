# GPU kernels as data of the package: their sources always, and cubins and PTX where NVRTC is there to make them. It is
# looked for among Python's packages, in CUDA_HOME and in the system; KDNATIVE_NVRTC names the library. Without it the
# kernels are compiled at their first use. Nothing here needs a GPU, a driver or CUDA's headers.
set(KDNATIVE_CUDA_ARCHS "" CACHE STRING
    "what to compile GPU kernels for, as in sm_80,sm_90; none: nothing; empty: all, if NVRTC is there")

function(kdnative_cuda)
  set(sources "${PROJECT_SOURCE_DIR}/csrc/cuda")
  install(DIRECTORY "${sources}/" DESTINATION kdnative/_cuda/source
          FILES_MATCHING PATTERN "*.cu" PATTERN "*.cuh" PATTERN "*.h" PATTERN host EXCLUDE)
  # An editable install compiles at first use, so that a change of a kernel is never hidden by an old cubin.
  if(KDNATIVE_CUDA_ARCHS STREQUAL "none" OR (KDNATIVE_CUDA_ARCHS STREQUAL "" AND SKBUILD_STATE STREQUAL "editable"))
    return()
  endif()
  set(script "${PROJECT_SOURCE_DIR}/cmake/compile_kernels.py")
  execute_process(COMMAND "${Python_EXECUTABLE}" "${script}" --version
                  RESULT_VARIABLE failed OUTPUT_VARIABLE version ERROR_VARIABLE why OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(failed AND KDNATIVE_CUDA_ARCHS)
    message(FATAL_ERROR "KDNATIVE_CUDA_ARCHS asks for compiled GPU kernels. ${why}")
  elseif(failed)
    message(STATUS "GPU kernels will be compiled at their first use, as NVRTC is not here")
    return()
  endif()
  string(REPLACE "," ";" archs "${KDNATIVE_CUDA_ARCHS}")
  if(NOT archs)
    set(archs sm_80 sm_86 sm_89 sm_90)
  endif()
  message(STATUS "GPU kernels for ${archs} by NVRTC ${version}")
  file(GLOB families CONFIGURE_DEPENDS "${sources}/*.cu")
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS "${sources}/*.cuh" "${sources}/*.h")
  set(out "${CMAKE_CURRENT_BINARY_DIR}/cuda")
  foreach(source IN LISTS families)
    cmake_path(GET source STEM family)
    set(stamp "${out}/${family}.compute_80.ptx")  # which is written last
    add_custom_command(OUTPUT "${stamp}"
      COMMAND "${Python_EXECUTABLE}" "${script}" "${source}" "${out}" ${archs}
      DEPENDS "${source}" ${headers} "${script}" "${PROJECT_SOURCE_DIR}/kdnative/ops/nvrtc.py"
      COMMENT "GPU kernels of ${family}" VERBATIM)
    list(APPEND stamps "${stamp}")
  endforeach()
  add_custom_target(kdnative_cuda ALL DEPENDS ${stamps})
  install(DIRECTORY "${out}/" DESTINATION kdnative/_cuda 
          FILES_MATCHING PATTERN "*.cubin" PATTERN "*.ptx" PATTERN nvrtc_version)
endfunction()
