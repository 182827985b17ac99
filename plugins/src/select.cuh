// The k largest scores of a row, found by one block: a radix select for the smallest key that stays, then a walk in
// ascending order of index. The scores stream from global memory, so that a row may have any length.
#pragma once
#include "order.cuh"

namespace tp {

constexpr int DIGITS = 256;  // of a radix of 8 bits

struct SelectRoom {  // in shared memory
    unsigned bins[DIGITS];
    unsigned warps[2][MOST_WARPS];
    unsigned digit, need;
};

// Every key above `key` stays, and the first `ties` of those equal to it.
struct Threshold {
    uint32_t key;
    unsigned ties;
};

// Counts digit (key >> shift) of the keys that agree with `prefix` in the bits of `mask`.
__device__ inline void count_digits(const Scores& scores, size_t row, int n, uint32_t prefix, uint32_t mask, int shift,
                                    SelectRoom& room) {
    for (int bin = threadIdx.x; bin < DIGITS; bin += blockDim.x) room.bins[bin] = 0;
    __syncthreads();
    for (int base = 0; base < n; base += blockDim.x) {
        const int i = base + threadIdx.x;
        const uint32_t key = i < n ? scores.key(row + i) : 0;
        const bool counts = key != 0 && (key & mask) == prefix;
        const unsigned digit = counts ? key >> shift & 0xffu : DIGITS;
        // scores share their exponents: equal digits of a warp are added at once
        const unsigned equals = __match_any_sync(ALL, digit);
        const bool first = __ffs(equals) - 1 == static_cast<int>(threadIdx.x) % WARP;
        if (counts && first) atomicAdd(&room.bins[digit], static_cast<unsigned>(__popc(equals)));
    }
    __syncthreads();
}

// The digit in which the `need`-th largest key lies, and how many of the keys with that digit are needed: by one warp.
__device__ inline void choose_digit(unsigned need, SelectRoom& room) {
    constexpr int own = DIGITS / WARP;
    const int lane = threadIdx.x;
    const int top = DIGITS - 1 - lane * own;  // the first lane has the largest digits
    unsigned sum = 0;
    for (int i = 0; i < own; ++i) sum += room.bins[top - i];
    unsigned through = sum;
    for (int step = 1; step < WARP; step *= 2) {
        const unsigned other = __shfl_up_sync(ALL, through, step);
        if (lane >= step) through += other;
    }
    unsigned before = through - sum;
    if (before >= need || need > through) return;
    int digit = top;
    for (; before + room.bins[digit] < need; --digit) before += room.bins[digit];
    room.digit = digit;
    room.need = need - before;
}

__device__ inline Threshold find_threshold(const Scores& scores, size_t row, int n, unsigned need, SelectRoom& room) {
    uint32_t prefix = 0, mask = 0;
    for (int shift = 24; shift >= scores.lowest_bit(); shift -= 8) {
        count_digits(scores, row, n, prefix, mask, shift, room);
        if (threadIdx.x < WARP) choose_digit(need, room);
        __syncthreads();
        prefix |= room.digit << shift;
        mask |= 0xffu << shift;
        need = room.need;
    }
    return {prefix, need};
}

// Calls put(place, index) for every index that stays, its place counted from 0 in ascending order of index.
template <typename Put>
__device__ void walk(const Scores& scores, size_t row, int n, Threshold threshold, SelectRoom& room, Put put) {
    const unsigned lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, lower = (1u << lane) - 1;
    unsigned above_before = 0, ties_before = 0;
    for (int base = 0, turn = 0; base < n; base += blockDim.x, turn ^= 1) {
        const int i = base + threadIdx.x;
        const uint32_t key = i < n ? scores.key(row + i) : 0;
        const bool above = key > threshold.key, tie = key == threshold.key;
        const unsigned aboves = __ballot_sync(ALL, above), ties = __ballot_sync(ALL, tie);
        if (lane == 0) room.warps[turn][warp] = __popc(aboves) | __popc(ties) << 16;
        __syncthreads();  // one is enough: the next turn writes elsewhere
        unsigned before = 0, total = 0;
        for (unsigned other = 0; other < blockDim.x / WARP; ++other) {
            if (other == warp) before = total;
            total += room.warps[turn][other];
        }
        const unsigned tie_rank = ties_before + (before >> 16) + __popc(ties & lower);
        const unsigned above_rank = above_before + (before & 0xffffu) + __popc(aboves & lower);
        const unsigned ties_taken = tie_rank < threshold.ties ? tie_rank : threshold.ties;
        if (above || (tie && tie_rank < threshold.ties)) put(static_cast<int>(above_rank + ties_taken), i);
        above_before += total & 0xffffu;
        ties_before += total >> 16;
    }
}

}  // namespace tp
