// The kernels' C interface: plain pointers and a stream, so that TensorRT, ctypes, CuPy and PyTorch call the same code.
//
// All pointers are device memory, aligned to their element; a stream is a cudaStream_t, nullptr the default one. Every
// launcher enqueues one kernel, allocates nothing, never waits, and returns a cudaError_t as int (0: enqueued).
//
//   float_type   of the scores: 0 fp32, 1 fp16, 2 bf16
//   index_bytes  of each index written: 8 (int64) or 4 (int32)
//   count        nullptr: exactly k indices a row. Otherwise one int64 on the device: that many, held within 1..k; rows
//                are then dense at that width, so outputs are [batch,count]
//   written      nullptr, or one int32 on the device which receives the number of indices of a row
//
// Order of scores, for all three: NaN above every number, -0 equal to +0, of equals the lower index first.
#pragma once
#include <cstddef>
#include <cstdint>

#define TP_API extern "C" __attribute__((visibility("default")))

// scores [batch,n] -> indices [batch,k]: the k largest of each row, in ascending order of index.
TP_API int tp_select(const void* scores, int float_type, void* indices, int index_bytes, int batch, int n, int k,
                     const int64_t* count, int32_t* written, void* stream);

// The same, and tokens [batch,n] rows of row_bytes bytes -> kept [batch,k] rows: kept[b,i] = tokens[b,indices[b,i]].
TP_API int tp_token_select(const void* scores, int float_type, const void* tokens, size_t row_bytes, void* kept,
                           void* indices, int index_bytes, int batch, int n, int k, const int64_t* count,
                           int32_t* written, void* stream);

// matrix [batch,n,n], start [batch,n], fp32 -> picks [batch,k] in the order of picking: each the argmax of a running
// score, which is start for the first one, and then, of the rows of the matrix that were picked, the minimum (form 0,
// max-min) or the sum (form 1, max-sum). workspace: tp_diverse_workspace(batch, n) bytes on the device.
TP_API int tp_diverse_select(const float* matrix, const float* start, int form, void* picks, int index_bytes, int batch,
                             int n, int k, const int64_t* count, int32_t* written, void* workspace, void* stream);

// Bytes that tp_diverse_select needs beside its outputs: 0 up to n = 16384, where registers hold the running score.
TP_API size_t tp_diverse_workspace(int batch, int n);

// The version of this interface: 1.
TP_API int tp_interface(void);
