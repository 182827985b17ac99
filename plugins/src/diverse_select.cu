// DiverseSelect: matrix [B,N,N], start [B,N] -> picks [B,K]. One block a batch row makes all K picks in one launch; each
// thread keeps the running scores of its tokens in registers, and reads the picked row of the matrix once.
#include "order.cuh"

namespace tp {

constexpr float GONE = -1e38f;  // what a pick adds to its running score
constexpr float FAR = 1e38f;    // the running minimum before the first pick

template <int Items>
struct InRegisters {
    float value[Items];
    __device__ explicit InRegisters(float*) {}
    __device__ static int items(int) { return Items; }
    __device__ float& at(int item, int) { return value[item]; }
};

struct InMemory {
    float* row;
    __device__ explicit InMemory(float* workspace) : row(workspace) {}
    __device__ static int items(int n) { return (n + blockDim.x - 1) / blockDim.x; }
    __device__ float& at(int, int token) { return row[token]; }
};

struct DiverseRoom {  // in shared memory
    unsigned long long best[2][MOST_WARPS];
};

// Larger for the larger score, and of equal scores for the lower index; never 0.
__device__ inline unsigned long long candidate(float score, int index) {
    const unsigned long long key = order_key(__float_as_uint(score), 0x7f800000u);
    return key << 32 | (ALL - static_cast<unsigned>(index));
}

__device__ inline unsigned long long best_of_warp(unsigned long long own) {
    for (int step = WARP / 2; step > 0; step /= 2) {
        const unsigned long long other = __shfl_xor_sync(ALL, own, step);
        own = other > own ? other : own;
    }
    return own;
}

// The index of the block's best candidate, in every thread. turn: 0 and 1 by turns, so that one barrier is enough.
__device__ inline int best_of_block(unsigned long long own, int turn, DiverseRoom& room) {
    const unsigned lane = threadIdx.x % WARP;
    own = best_of_warp(own);
    if (lane == 0) room.best[turn][threadIdx.x / WARP] = own;
    __syncthreads();
    own = best_of_warp(lane < blockDim.x / WARP ? room.best[turn][lane] : 0);
    return static_cast<int>(ALL - static_cast<unsigned>(own));
}

// NaN in either one wins, as in torch.minimum and in ONNX Runtime's Min.
__device__ inline float lesser(float a, float b) { return a < b || a != a ? a : b; }

template <typename Running>
__device__ void search(const float* matrix, const float* start, int form, const Indices& picks, size_t place, int n,
                       int kept, Running running, DiverseRoom& room) {
    unsigned long long best = 0;
    const int items = Running::items(n);
#pragma unroll
    for (int item = 0; item < items; ++item) {
        const int token = item * blockDim.x + threadIdx.x;
        if (token >= n) continue;
        running.at(item, token) = form == 0 ? FAR : 0.0f;
        const unsigned long long own = candidate(start[token], token);
        best = own > best ? own : best;
    }
    for (int step = 0; step < kept; ++step) {
        const int pick = best_of_block(best, step & 1, room);
        if (threadIdx.x == 0) picks.put(place + step, pick);
        if (step + 1 == kept) return;
        const float* row = matrix + static_cast<size_t>(pick) * n;
        best = 0;
#pragma unroll
        for (int item = 0; item < items; ++item) {
            const int token = item * blockDim.x + threadIdx.x;
            if (token >= n) continue;
            float& score = running.at(item, token);
            const float joined = form == 0 ? lesser(score, row[token]) : score + row[token];
            score = joined + (token == pick ? GONE : 0.0f);
            const unsigned long long own = candidate(score, token);
            best = own > best ? own : best;
        }
    }
}

}  // namespace tp

// One entry a way of keeping the running score; an entry has a name, so that it can be found in the PTX.
#define TP_DIVERSE_KERNEL(NAME, RUNNING)                                                                            \
    extern "C" __global__ void __launch_bounds__(tp::MOST_THREADS, 1)                                               \
        NAME(const float* matrix, const float* start, int form, void* picks, int index_bytes, int n, int k,         \
             const int64_t* count, int32_t* written, float* workspace) {                                            \
        __shared__ tp::DiverseRoom room;                                                                            \
        const int kept = tp::kept_of(count, k);                                                                     \
        const size_t row = static_cast<size_t>(blockIdx.x) * n;                                                     \
        if (written != nullptr && blockIdx.x == 0 && threadIdx.x == 0) *written = kept;                             \
        tp::search(matrix + row * n, start + row, form, tp::Indices{picks, index_bytes},                            \
                   static_cast<size_t>(blockIdx.x) * kept, n, kept,                                                 \
                   RUNNING(workspace == nullptr ? nullptr : workspace + row), room);                                \
    }

TP_DIVERSE_KERNEL(tp_diverse_select_kernel_1, tp::InRegisters<1>)
TP_DIVERSE_KERNEL(tp_diverse_select_kernel_4, tp::InRegisters<4>)
TP_DIVERSE_KERNEL(tp_diverse_select_kernel_16, tp::InRegisters<16>)
TP_DIVERSE_KERNEL(tp_diverse_select_kernel_any, tp::InMemory)

size_t tp_diverse_workspace(int batch, int n) {
    return n <= 16 * tp::MOST_THREADS ? 0 : static_cast<size_t>(batch) * n * sizeof(float);
}

int tp_diverse_select(const float* matrix, const float* start, int form, void* picks, int index_bytes, int batch, int n,
                      int k, const int64_t* count, int32_t* written, void* workspace, void* stream) {
    if (!tp::sizes_fit(batch, n, k, index_bytes) || (form != 0 && form != 1)) return cudaErrorInvalidValue;
    const bool registers = tp_diverse_workspace(1, n) == 0;
    if (!registers && workspace == nullptr) return cudaErrorInvalidValue;
    if (batch == 0) return cudaSuccess;
    const auto kernel = n <= tp::MOST_THREADS       ? tp_diverse_select_kernel_1
                        : n <= 4 * tp::MOST_THREADS ? tp_diverse_select_kernel_4
                        : registers                 ? tp_diverse_select_kernel_16
                                                    : tp_diverse_select_kernel_any;
    return tp::launch(kernel, dim3(batch), tp::threads_for(n), stream, matrix, start, form, picks, index_bytes, n, k,
                      count, written, static_cast<float*>(workspace));
}
