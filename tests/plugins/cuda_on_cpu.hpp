// CUDA's execution model on one CPU thread, so that g++ compiles and runs a .cu as it is: g++ -include cuda_on_cpu.hpp
// -x c++ a.cu. Blocks run one after another; the threads of a block are fibers which stop at barriers and warp
// operations and go on in an order that cuda_on_cpu_order chooses. What a kernel forgot to wait for comes out wrong in
// one of them. Shared memory is full of garbage at the start of a block. A deadlock, or lanes of a warp that meet
// in different operations, end the process with one line.
#pragma once
#include <csetjmp>
#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("shared_memory")))

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;
extern "C" char __start_shared_memory[] __attribute__((visibility("hidden")));
extern "C" char __stop_shared_memory[] __attribute__((visibility("hidden")));

namespace cpu {

constexpr unsigned LANES = 32;
constexpr size_t STACK = 32 * 1024;

[[noreturn]] inline void fail(const char* why) {
    std::fprintf(stderr, "cuda_on_cpu: %s\n", why);
    std::abort();
}

struct Barrier {
    unsigned waiting = 0, round = 0;
};

struct Fiber {
    std::unique_ptr<char[]> stack{new char[STACK]};
    ucontext_t start;
    jmp_buf at;
    bool fresh, done;
    const Barrier* stop;  // waits until this barrier leaves the round
    unsigned round, collectives;
};

struct Slots {  // what the lanes of a warp exchange; two by turns, so that a fast lane does not overwrite a slow one's
    uint64_t value[2][LANES];
    int kind[2][LANES];
};

inline std::vector<Fiber> fibers;
inline std::vector<Barrier> warps;
inline std::vector<Slots> slots;
inline Barrier block;
inline jmp_buf scheduler;
inline Fiber* current;
inline void (*run_thread)(void*);
inline void* launched;
inline unsigned seed = 0;

inline void begin() {
    run_thread(launched);
    current->done = true;
    _longjmp(scheduler, 1);
}

__attribute__((noinline)) inline void resume(Fiber& fiber, unsigned thread) {
    current = &fiber;
    threadIdx = dim3(thread);
    if (_setjmp(scheduler) != 0) return;
    if (!fiber.fresh) _longjmp(fiber.at, 1);
    fiber.fresh = false;
    getcontext(&fiber.start);
    fiber.start.uc_stack.ss_sp = fiber.stack.get();
    fiber.start.uc_stack.ss_size = STACK;
    makecontext(&fiber.start, begin, 0);
    setcontext(&fiber.start);
}

__attribute__((noinline)) inline void wait(Barrier& barrier, unsigned all) {
    if (++barrier.waiting == all) {
        barrier.waiting = 0;
        ++barrier.round;
        return;
    }
    Fiber& own = *current;
    own.stop = &barrier;
    own.round = barrier.round;
    if (_setjmp(own.at) == 0) _longjmp(scheduler, 1);
    own.stop = nullptr;
}

inline bool stands(const Fiber& fiber) {
    return fiber.done || (fiber.stop != nullptr && fiber.stop->round == fiber.round);
}

// Lets a warp's threads go on until each stops once, or until all stand for good; whether any moved.
inline bool run_warp(unsigned warp, bool descending, bool far) {
    bool moved = false, again = true;
    while (again) {
        again = false;
        for (unsigned i = 0; i < LANES; ++i) {
            const unsigned thread = warp * LANES + (descending ? LANES - 1 - i : i);
            if (stands(fibers[thread])) continue;
            resume(fibers[thread], thread);
            moved = true;
            again = far;
        }
    }
    return moved;
}

inline void run_block() {
    const unsigned many = blockDim.x / LANES;
    while (fibers.size() < blockDim.x) fibers.emplace_back();
    warps.assign(many, {});
    slots.assign(many, {});
    block = {};
    std::memset(__start_shared_memory, 0xa5, __stop_shared_memory - __start_shared_memory);
    for (Fiber& fiber : fibers) fiber.fresh = true, fiber.done = false, fiber.stop = nullptr, fiber.collectives = 0;
    std::vector<unsigned> order(many);
    for (unsigned warp = 0; warp < many; ++warp) order[warp] = seed == 1 ? many - 1 - warp : warp;
    unsigned random = seed;
    for (bool moved = true; moved;) {
        for (unsigned last = many - 1; seed > 1 && last > 0; --last) {
            random = random * 1664525u + 1013904223u;
            std::swap(order[last], order[(random >> 8) % (last + 1)]);
        }
        moved = false;
        for (unsigned warp : order) moved |= run_warp(warp, seed % 2 == 1, seed > 1);
    }
    for (unsigned thread = 0; thread < blockDim.x; ++thread)
        if (!fibers[thread].done) fail("deadlock: some threads wait where others never come");
}

enum { BALLOT, UP, XOR, MATCH };

// Every lane's value, once all lanes of the warp are here.
inline const uint64_t* exchange(unsigned mask, int kind, uint64_t value) {
    if (mask != 0xffffffffu) fail("a warp operation without all lanes");
    const unsigned warp = threadIdx.x / LANES, lane = threadIdx.x % LANES, turn = current->collectives++ & 1;
    slots[warp].value[turn][lane] = value;
    slots[warp].kind[turn][lane] = kind;
    wait(warps[warp], LANES);
    for (int other : slots[warp].kind[turn])
        if (other != kind) fail("lanes of a warp met in different operations");
    return slots[warp].value[turn];
}

}  // namespace cpu

extern "C" __attribute__((visibility("default"), used)) inline void cuda_on_cpu_order(unsigned seed) {
    cpu::seed = seed;  // 0: ascending, 1: descending, a stop each; else warps at random, each as far as it comes
}

inline void __syncthreads() { cpu::wait(cpu::block, blockDim.x); }

inline unsigned __ballot_sync(unsigned mask, bool here) {
    const uint64_t* all = cpu::exchange(mask, cpu::BALLOT, here);
    unsigned bits = 0;
    for (unsigned lane = 0; lane < cpu::LANES; ++lane) bits |= static_cast<unsigned>(all[lane]) << lane;
    return bits;
}

template <typename T>
T __shfl_up_sync(unsigned mask, T own, unsigned step) {
    const uint64_t* all = cpu::exchange(mask, cpu::UP, own);
    const unsigned lane = threadIdx.x % cpu::LANES;
    return static_cast<T>(lane >= step ? all[lane - step] : own);
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T own, unsigned step) {
    return static_cast<T>(cpu::exchange(mask, cpu::XOR, own)[threadIdx.x % cpu::LANES ^ step]);
}

inline unsigned __match_any_sync(unsigned mask, unsigned own) {
    const uint64_t* all = cpu::exchange(mask, cpu::MATCH, own);
    unsigned bits = 0;
    for (unsigned lane = 0; lane < cpu::LANES; ++lane) bits |= static_cast<unsigned>(all[lane] == own) << lane;
    return bits;
}

inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline unsigned atomicAdd(unsigned* at, unsigned more) { return (*at += more) - more; }

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
    gridDim = config->gridDim;
    blockDim = config->blockDim;
    const bool whole = blockDim.x >= 1 && blockDim.x <= 1024 && blockDim.x % cpu::LANES == 0;
    if (!whole || gridDim.y > 65535 || blockDim.y != 1) return cudaErrorInvalidConfiguration;
    auto call = [&] { kernel(static_cast<Parameters>(arguments)...); };
    cpu::launched = &call;
    cpu::run_thread = [](void* all) { (*static_cast<decltype(call)*>(all))(); };
    for (unsigned y = 0; y < gridDim.y; ++y) {
        for (unsigned x = 0; x < gridDim.x; ++x) {
            blockIdx = dim3(x, y);
            cpu::run_block();
        }
    }
    cpu::launched = nullptr;
    return cudaSuccess;
}
