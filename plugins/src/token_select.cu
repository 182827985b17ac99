// TokenSelect: scores [B,N], tokens [B,N,C] -> kept [B,K,C], indices [B,K]. One launch: each block copies a slice of the
// kept rows and finds out by itself which rows those are, which costs less than waiting for another block.
#include "select.cuh"

namespace tp {

constexpr int MOST_ROWS = 1024;         // that one block copies
constexpr int FEW_SLICES = 64;          // of a batch row: enough for a large GPU, not too many for a small one
constexpr int SLICE_BYTES = 32 * 1024;  // worth a block

struct alignas(16) Wide {
    uint32_t words[4];
};

template <typename Unit>
__device__ void copy_rows(const void* from, void* to, const int* rows, int many, size_t row_bytes) {
    const size_t units = row_bytes / sizeof(Unit);
    for (size_t i = threadIdx.x; i < many * units; i += blockDim.x) {
        const size_t row = i / units, at = i % units;
        static_cast<Unit*>(to)[i] = static_cast<const Unit*>(from)[rows[row] * units + at];
    }
}

// The widest unit that divides rows and addresses: 16, 4, 2 or 1 bytes.
inline int unit_of(const void* from, const void* to, size_t row_bytes) {
    const size_t all = reinterpret_cast<size_t>(from) | reinterpret_cast<size_t>(to) | row_bytes;
    return all % 16 == 0 ? 16 : all % 4 == 0 ? 4 : all % 2 == 0 ? 2 : 1;
}

inline int rows_of_slice(size_t row_bytes, int k) {
    const int worth = row_bytes < SLICE_BYTES / 64 ? 64 : row_bytes > SLICE_BYTES ? 1 : SLICE_BYTES / row_bytes;
    const int least = (k + FEW_SLICES - 1) / FEW_SLICES;
    const int rows = least > worth ? least : worth;
    return rows < MOST_ROWS ? rows : MOST_ROWS;
}

}  // namespace tp

extern "C" __global__ void __launch_bounds__(tp::MOST_THREADS, 1)
    tp_token_select_kernel(const void* scores, int float_type, const void* tokens, size_t row_bytes, int unit,
                           void* kept_tokens, void* indices, int index_bytes, int n, int k, int slice,
                           const int64_t* count, int32_t* written) {
    __shared__ tp::SelectRoom room;
    __shared__ int rows[tp::MOST_ROWS];
    const tp::Scores keys{scores, float_type};
    const tp::Indices out{indices, index_bytes};
    const int kept = tp::kept_of(count, k), first = blockIdx.y * slice;
    const size_t row = static_cast<size_t>(blockIdx.x) * n, place = static_cast<size_t>(blockIdx.x) * kept;
    if (written != nullptr && blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) *written = kept;
    if (first >= kept) return;  // the whole block: fewer are kept than k
    const tp::Threshold threshold = tp::find_threshold(keys, row, n, kept, room);
    tp::walk(keys, row, n, threshold, room, [&](int at, int index) {
        if (blockIdx.y == 0) out.put(place + at, index);
        if (at >= first && at < first + slice) rows[at - first] = index;
    });
    __syncthreads();
    const char* from = static_cast<const char*>(tokens) + row * row_bytes;
    char* to = static_cast<char*>(kept_tokens) + (place + first) * row_bytes;
    const int many = kept - first < slice ? kept - first : slice;
    if (unit == 16) tp::copy_rows<tp::Wide>(from, to, rows, many, row_bytes);
    else if (unit == 4) tp::copy_rows<uint32_t>(from, to, rows, many, row_bytes);
    else if (unit == 2) tp::copy_rows<uint16_t>(from, to, rows, many, row_bytes);
    else tp::copy_rows<uint8_t>(from, to, rows, many, row_bytes);
}

int tp_token_select(const void* scores, int float_type, const void* tokens, size_t row_bytes, void* kept, void* indices,
                    int index_bytes, int batch, int n, int k, const int64_t* count, int32_t* written, void* stream) {
    if (!tp::sizes_fit(batch, n, k, index_bytes) || row_bytes == 0) return cudaErrorInvalidValue;
    if (batch == 0) return cudaSuccess;
    const int slice = tp::rows_of_slice(row_bytes, k);
    return tp::launch(tp_token_select_kernel, dim3(batch, (k + slice - 1) / slice), tp::threads_for(n), stream, scores,
                      float_type, tokens, row_bytes, tp::unit_of(tokens, kept, row_bytes), kept, indices, index_bytes, n,
                      k, slice, count, written);
}
