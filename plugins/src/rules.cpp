#include "rules.hpp"

#include <climits>
#include <string_view>

namespace tp {

namespace {

constexpr const char* NAMES[] = {"Select", "TokenSelect", "DiverseSelect"};
constexpr const char* FORMS[] = {"max-min", "max-sum"};

bool is_float(int type) { return type == FP32 || type == FP16 || type == BF16; }

size_t bytes_of(int type) {
    switch (type) {
        case INT8: return 1;
        case FP16:
        case BF16: return 2;
        case FP32:
        case INT32: return 4;
        case INT64: return 8;
        default: return 0;
    }
}

bool read_int(const Field& field, int32_t& value) {
    if (field.length < 1 || field.data == nullptr) return false;
    int64_t wide = 0;
    if (field.type == FIELD_INT32) wide = *static_cast<const int32_t*>(field.data);
    else if (field.type == FIELD_INT64) wide = *static_cast<const int64_t*>(field.data);
    else return false;
    value = static_cast<int32_t>(wide);
    return wide >= 0 && wide <= INT32_MAX;
}

bool read_form(const Field& field, int32_t& value) {
    if (field.type != FIELD_CHAR || field.data == nullptr) return false;
    std::string_view text(static_cast<const char*>(field.data), field.length);
    while (!text.empty() && text.back() == '\0') text.remove_suffix(1);
    for (value = 0; value < 2; ++value)
        if (text == FORMS[value]) return true;
    return false;
}

bool is_size(const Settings& settings, int output) { return settings.dynamic && output == outputs_of(settings) - 1; }

bool is_tokens(const Settings& settings, int output) { return settings.op == Operator::token_select && output == 0; }

}  // namespace

const char* name_of(Operator op) { return NAMES[static_cast<int>(op)]; }
const char* form_name(int form) { return FORMS[form]; }

const char* read_field(const Field& field, Settings& settings) {
    const std::string_view name(field.name);
    if (name == "k") return read_int(field, settings.k) ? nullptr : "k must be one positive integer";
    if (name == "dynamic") return read_int(field, settings.dynamic) ? nullptr : "dynamic must be 0 or 1";
    if (name == "index_bytes") return read_int(field, settings.index_bytes) ? nullptr : "index_bytes must be 4 or 8";
    if (name == "form") return read_form(field, settings.form) ? nullptr : "form must be max-min or max-sum";
    return nullptr;
}

const char* check(const Settings& settings) {
    if (settings.k < 1) return "k must be one positive integer";
    if (settings.dynamic > 1) return "dynamic must be 0 or 1";
    if (settings.index_bytes != 4 && settings.index_bytes != 8) return "index_bytes must be 4 or 8";
    return nullptr;
}

int inputs_of(const Settings& settings) { return (settings.op == Operator::select ? 1 : 2) + settings.dynamic; }
int outputs_of(const Settings& settings) { return (settings.op == Operator::token_select ? 2 : 1) + settings.dynamic; }
int scores_of(const Settings& settings) { return settings.op == Operator::diverse_select ? 1 : 0; }

int output_type(const Settings& settings, int output, const int* input_types) {
    if (is_size(settings, output)) return INT32;
    if (is_tokens(settings, output)) return input_types[1];
    return settings.index_bytes == 8 ? INT64 : INT32;
}

bool accepts(const Settings& settings, int place, const int* types) {
    const int inputs = inputs_of(settings), type = types[place];
    if (place >= inputs) return type == output_type(settings, place - inputs, types);
    if (settings.dynamic && place == inputs - 1) return type == INT64;
    if (settings.op == Operator::diverse_select) return type == FP32;
    return place == 0 ? is_float(type) : bytes_of(type) > 0;
}

const char* output_shape(const Settings& settings, int output, const int* ranks, Shape& shape) {
    const int scores = scores_of(settings), rank = ranks[scores];
    if (rank < 1 || rank > MOST_AXES) return "scores must have 1 to 8 axes";
    shape = {};
    if (is_size(settings, output)) return nullptr;
    for (int axis = 0; axis + 1 < rank; ++axis) shape.extents[shape.rank++] = {scores, axis};
    shape.extents[shape.rank++] = {-1, 0};
    if (settings.op == Operator::diverse_select && ranks[0] != rank + 1) return "matrix must have one axis more than start";
    if (settings.op != Operator::token_select) return nullptr;
    if (ranks[1] < rank || ranks[1] > MOST_AXES) return "tokens must have the axes of scores first";
    for (int axis = rank; output == 0 && axis < ranks[1]; ++axis) shape.extents[shape.rank++] = {1, axis};
    return nullptr;
}

const char* sizes_of(const Settings& settings, const int64_t* const* dims, const int* ranks, const int* types,
                     Sizes& sizes) {
    const int scores = scores_of(settings), rank = ranks[scores];
    int64_t batch = 1, row = 1;
    for (int axis = 0; axis + 1 < rank; ++axis) batch *= dims[scores][axis];
    const int64_t n = dims[scores][rank - 1];
    if (settings.k > n) return "k is more than a row has scores";
    if (n > INT32_MAX / 2 || batch > INT32_MAX) return "rows are too many or too long";
    for (int input = 0; input < inputs_of(settings) - settings.dynamic; ++input)
        for (int axis = 0; axis < rank; ++axis)
            if (dims[input][axis] != dims[scores][axis]) return "the inputs' leading axes differ";
    if (settings.op == Operator::diverse_select && dims[0][rank] != n) return "matrix must be square";
    for (int axis = rank; settings.op == Operator::token_select && axis < ranks[1]; ++axis) row *= dims[1][axis];
    sizes = {static_cast<int>(batch), static_cast<int>(n), 0};
    if (settings.op == Operator::token_select) sizes.row_bytes = row * bytes_of(types[1]);
    return nullptr;
}

}  // namespace tp
