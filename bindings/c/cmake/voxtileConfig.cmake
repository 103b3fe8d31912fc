# find_package(voxtile) gives
#   voxtile::voxtile          the shared library
#   voxtile::voxtile_static   the static library, where it is installed
# both with the header of C, voxtile.h, and its C++17 wrapper, voxtile.hpp.

if(TARGET voxtile::voxtile)
  return()
endif()

# This file lies in PREFIX/share/cmake/voxtile.
get_filename_component(_voxtile_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
set(_voxtile_search
  PATHS "${_voxtile_prefix}"
  PATH_SUFFIXES lib lib64 ${CMAKE_INSTALL_LIBDIR} lib/${CMAKE_LIBRARY_ARCHITECTURE}
  NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)

find_path(voxtile_INCLUDE_DIR voxtile.h
  PATHS "${_voxtile_prefix}" PATH_SUFFIXES include NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
if(WIN32)
  find_file(voxtile_LIBRARY NAMES voxtile.dll PATHS "${_voxtile_prefix}" PATH_SUFFIXES bin
    NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
  find_library(voxtile_IMPORT_LIBRARY NAMES voxtile.dll voxtile ${_voxtile_search})
  set(_voxtile_static_names voxtile_static)
else()
  find_library(voxtile_LIBRARY
    NAMES "${CMAKE_SHARED_LIBRARY_PREFIX}voxtile${CMAKE_SHARED_LIBRARY_SUFFIX}" ${_voxtile_search})
  set(_voxtile_static_names "${CMAKE_STATIC_LIBRARY_PREFIX}voxtile${CMAKE_STATIC_LIBRARY_SUFFIX}")
endif()
find_library(voxtile_STATIC_LIBRARY NAMES ${_voxtile_static_names} ${_voxtile_search})
mark_as_advanced(voxtile_INCLUDE_DIR voxtile_LIBRARY voxtile_IMPORT_LIBRARY voxtile_STATIC_LIBRARY)

include(CMakeFindDependencyMacro)
if(voxtile_STATIC_LIBRARY)
  set(THREADS_PREFER_PTHREAD_FLAG ON)
  find_dependency(Threads)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(voxtile
  REQUIRED_VARS voxtile_LIBRARY voxtile_INCLUDE_DIR
  VERSION_VAR voxtile_VERSION)
if(NOT voxtile_FOUND)
  return()
endif()

add_library(voxtile::voxtile SHARED IMPORTED)
set_target_properties(voxtile::voxtile PROPERTIES
  IMPORTED_LOCATION "${voxtile_LIBRARY}"
  INTERFACE_INCLUDE_DIRECTORIES "${voxtile_INCLUDE_DIR}")
if(WIN32)
  set_target_properties(voxtile::voxtile PROPERTIES IMPORTED_IMPLIB "${voxtile_IMPORT_LIBRARY}")
endif()

if(voxtile_STATIC_LIBRARY)
  add_library(voxtile::voxtile_static STATIC IMPORTED)
  set_target_properties(voxtile::voxtile_static PROPERTIES
    IMPORTED_LOCATION "${voxtile_STATIC_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${voxtile_INCLUDE_DIR}")
  target_link_libraries(voxtile::voxtile_static INTERFACE Threads::Threads ${CMAKE_DL_LIBS})
  if(UNIX)
    target_link_libraries(voxtile::voxtile_static INTERFACE m)
  endif()
endif()
