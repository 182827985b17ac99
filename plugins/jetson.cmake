# Cross-compiling for Jetson on x86-64: cmake -S plugins -B build-jetson --toolchain plugins/jetson.cmake
# -DTRT_INCLUDE_DIR=… Needs g++-aarch64-linux-gnu and CUDA's cross packages: cuda-cross-aarch64-12-6 for JetPack 6,
# cuda-cross-sbsa-13-0 for JetPack 7. GPUs: Orin 87, Thor 110; nvcc 12 does not know the latter.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_CUDA_HOST_COMPILER aarch64-linux-gnu-g++)
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 87-real)
endif()
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
