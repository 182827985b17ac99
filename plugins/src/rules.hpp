// What the operators tell a builder: their attributes, types and shapes. No TensorRT here: this is tested without it.
#pragma once
#include <cstddef>
#include <cstdint>

namespace tp {

enum class Operator : int { select, token_select, diverse_select };

// TensorRT's numbers of data types and field types; plugin.cpp asserts that they are.
enum Type : int { FP32 = 0, FP16 = 1, INT8 = 2, INT32 = 3, BF16 = 7, INT64 = 8 };
enum FieldType : int { FIELD_INT32 = 5, FIELD_CHAR = 6, FIELD_INT64 = 10 };

struct Settings {
    Operator op = Operator::select;
    int32_t k = 0;
    int32_t form = 0;         // of DiverseSelect: 0 max-min, 1 max-sum
    int32_t dynamic = 0;      // 1: a last input `count` says how many of k, and a last output how many there are
    int32_t index_bytes = 8;  // 8: int64 indices, as in ONNX; 4: int32
};

struct Field {
    const char* name;
    const void* data;
    int type, length;
};

// An axis of an output: that of an input or, with input < 0, the kept ones.
struct Extent {
    int input, axis;
};

constexpr int MOST_AXES = 8;

struct Shape {
    int rank = 0;
    Extent extents[MOST_AXES] = {};
};

const char* name_of(Operator op);
const char* form_name(int form);

// An attribute into the settings, which keep their defaults where it is missing; fields of other names are ignored, as
// TensorRT passes plugin_version and plugin_namespace too. nullptr, or what is wrong in one line.
const char* read_field(const Field& field, Settings& settings);

// nullptr, or what is wrong with all of them together.
const char* check(const Settings& settings);

int inputs_of(const Settings& settings);
int outputs_of(const Settings& settings);

// The input whose last axis is ranked: scores or start.
int scores_of(const Settings& settings);

int output_type(const Settings& settings, int output, const int* input_types);

// Whether the type at `place`, inputs first and then outputs, goes with those before it; all rows without gaps.
bool accepts(const Settings& settings, int place, const int* types);

// The shape of an output, from the ranks of the inputs. nullptr, or what is wrong in one line.
const char* output_shape(const Settings& settings, int output, const int* ranks, Shape& shape);

// Sizes of a launch. dims: of the inputs. nullptr, or what is wrong in one line.
struct Sizes {
    int batch = 0, n = 0;
    size_t row_bytes = 0;  // of the tokens
};

const char* sizes_of(const Settings& settings, const int64_t* const* dims, const int* ranks, const int* types,
                     Sizes& sizes);

}  // namespace tp
