// Select: scores [B,N] -> indices [B,K], ascending. One block a row.
#include "select.cuh"

extern "C" __global__ void __launch_bounds__(tp::MOST_THREADS, 1)
    tp_select_kernel(const void* scores, int float_type, void* indices, int index_bytes, int n, int k,
                     const int64_t* count, int32_t* written) {
    __shared__ tp::SelectRoom room;
    const tp::Scores keys{scores, float_type};
    const tp::Indices out{indices, index_bytes};
    const int kept = tp::kept_of(count, k);
    const size_t row = static_cast<size_t>(blockIdx.x) * n, place = static_cast<size_t>(blockIdx.x) * kept;
    if (written != nullptr && blockIdx.x == 0 && threadIdx.x == 0) *written = kept;
    const tp::Threshold threshold = tp::find_threshold(keys, row, n, kept, room);
    tp::walk(keys, row, n, threshold, room, [&](int at, int index) { out.put(place + at, index); });
}

int tp_select(const void* scores, int float_type, void* indices, int index_bytes, int batch, int n, int k,
              const int64_t* count, int32_t* written, void* stream) {
    if (!tp::sizes_fit(batch, n, k, index_bytes)) return cudaErrorInvalidValue;
    if (batch == 0) return cudaSuccess;
    return tp::launch(tp_select_kernel, dim3(batch), tp::threads_for(n), stream, scores, float_type, indices,
                      index_bytes, n, k, count, written);
}

int tp_interface(void) { return 1; }
