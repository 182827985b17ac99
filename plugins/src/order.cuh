// Scores as unsigned keys in their order, and what every kernel needs around them.
#pragma once
#include "launch.hpp"

namespace tp {

constexpr int WARP = 32;
constexpr int MOST_THREADS = 1024;
constexpr int MOST_WARPS = MOST_THREADS / WARP;
constexpr unsigned ALL = 0xffffffffu;

// Whole warps for n items, at most a full block.
inline int threads_for(int n) { return n < MOST_THREADS ? (n + WARP - 1) / WARP * WARP : MOST_THREADS; }

// The bits of a float, its sign on top, as an unsigned number in the same order. NaN of either sign is the largest, -0
// becomes +0, and no key is 0: that is left for "no score". infinity: the bits of +inf in this format.
__device__ inline uint32_t order_key(uint32_t bits, uint32_t infinity) {
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > infinity) return ALL;
    if (magnitude == 0) return 0x80000000u;
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// Scores as they lie in memory. The order of 16-bit floats is that of their widened values, so that their bits are
// ranked as they are, moved to the upper half; the lower half stays 0.
struct Scores {
    const void* data;
    int float_type;

    __device__ uint32_t key(size_t at) const {
        if (float_type == 0) return order_key(static_cast<const uint32_t*>(data)[at], 0x7f800000u);
        const uint32_t bits = uint32_t{static_cast<const uint16_t*>(data)[at]} << 16;
        return order_key(bits, float_type == 1 ? 0x7c000000u : 0x7f800000u) & 0xffff0000u;
    }

    __device__ int lowest_bit() const { return float_type == 0 ? 0 : 16; }
};

struct Indices {
    void* data;
    int bytes;

    __device__ void put(size_t at, int index) const {
        if (bytes == 8) static_cast<int64_t*>(data)[at] = index;
        else static_cast<int32_t*>(data)[at] = index;
    }
};

// How many indices a row gets: k, or what `count` says on the device, within 1..k.
__device__ inline int kept_of(const int64_t* count, int k) {
    if (count == nullptr) return k;
    return *count < 1 ? 1 : *count > k ? k : static_cast<int>(*count);
}

inline bool sizes_fit(int batch, int n, int k, int index_bytes) {
    return batch >= 0 && k >= 1 && k <= n && (index_bytes == 4 || index_bytes == 8);
}

// Enqueues one kernel; a cudaError_t as int.
template <typename... Parameters, typename... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, int threads, void* stream, Arguments... arguments) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.stream = static_cast<cudaStream_t>(stream);
    return static_cast<int>(cudaLaunchKernelEx(&config, kernel, arguments...));
}

}  // namespace tp
