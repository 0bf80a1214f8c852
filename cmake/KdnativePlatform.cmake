# Stops in words where kdnative can't be built, before the compiler says it in its own. Enables C++.
if(NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
  message(FATAL_ERROR "kdnative builds on Linux only, not on ${CMAKE_SYSTEM_NAME}. Use a Linux machine, a container, or WSL "
                      "on Windows.")
endif()
include(CheckLanguage)
check_language(CXX)
if(NOT CMAKE_CXX_COMPILER)
  message(FATAL_ERROR "kdnative is compiled during installation and no C++ compiler works here: install one (Debian and Ubuntu: "
                      "apt-get install g++; Fedora: dnf install gcc-c++; or set CXX to yours), or install a wheel file.")
endif()
enable_language(CXX)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 11)
  message(FATAL_ERROR "kdnative needs GCC 11 or newer, for AVX-VNNI and AMX, and this is ${CMAKE_CXX_COMPILER_VERSION}: install a "
                      "newer one and set CXX to it.")
endif()
if(NOT CMAKE_SIZEOF_VOID_P EQUAL 8)
  message(FATAL_ERROR "kdnative needs a 64-bit system, as torch does.")
endif()
if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|aarch64|arm64")
  message(WARNING "kdnative has fast kernels for x86-64 and ARM64 only. On ${CMAKE_SYSTEM_PROCESSOR} it runs the portable "
                  "reference kernels, which are slow.")
endif()
