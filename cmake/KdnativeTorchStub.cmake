# kdnative_needs_torch(TARGET): gives the target a DT_NEEDED entry for libtorch.so without having torch at build time.
# The stub only carries the name; at run time the loader finds the real library that `import torch` has already loaded.
function(kdnative_needs_torch target)
  file(WRITE "${CMAKE_CURRENT_BINARY_DIR}/torch_stub.cpp" "")
  add_library(kdnative_torch_stub SHARED "${CMAKE_CURRENT_BINARY_DIR}/torch_stub.cpp")
  set_target_properties(kdnative_torch_stub PROPERTIES OUTPUT_NAME torch LIBRARY_OUTPUT_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/stub")
  target_link_options(${target} PRIVATE -Wl,--no-as-needed)
  target_link_libraries(${target} PRIVATE kdnative_torch_stub)
  set_target_properties(${target} PROPERTIES SKIP_BUILD_RPATH ON)
endfunction()
