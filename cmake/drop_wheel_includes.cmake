# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
#
# Lets a project configure against ROS 2 from pip wheels: their exported targets name Python's
# include folder of the machine that built them, below /opt/python/, and CMake refuses imported
# targets whose include folders are missing. The folders are dropped from every imported target
# once all find_package() calls are through; the compiler gets the real ones from FindPython.
#
# Use: cmake -DCMAKE_PROJECT_INCLUDE=<this file>. Not needed with ROS 2 from apt.
function(neuron_chunk_drop_wheel_includes)
  get_directory_property(targets IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(folders MATCHES "/opt/python/")
      list(FILTER folders EXCLUDE REGEX "/opt/python/")
      set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${folders}")
    endif()
  endforeach()
endfunction()

# CMAKE_PROJECT_INCLUDE is read at project(); the targets come later.
cmake_language(DEFER CALL neuron_chunk_drop_wheel_includes)
