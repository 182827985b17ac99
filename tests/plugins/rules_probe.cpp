// A C interface to the rules that the plugins follow, for ctypes.
#include "rules.hpp"

extern "C" {

struct Told {
    int op;
    int k, form, dynamic, index_bytes;
};

static tp::Settings settings(const Told* told) {
    return {static_cast<tp::Operator>(told->op), told->k, told->form, told->dynamic, told->index_bytes};
}

const char* read(Told* told, const char* name, const void* data, int type, int length) {
    tp::Settings into = settings(told);
    const char* wrong = tp::read_field({name, data, type, length}, into);
    *told = {told->op, into.k, into.form, into.dynamic, into.index_bytes};
    return wrong;
}

const char* check(const Told* told) { return tp::check(settings(told)); }
int inputs(const Told* told) { return tp::inputs_of(settings(told)); }
int outputs(const Told* told) { return tp::outputs_of(settings(told)); }
int output_type(const Told* told, int output, const int* types) {
    return tp::output_type(settings(told), output, types);
}
int accepts(const Told* told, int place, const int* types) { return tp::accepts(settings(told), place, types); }

// extents: (input, axis) of each axis.
const char* output_shape(const Told* told, int output, const int* ranks, int* rank, int* extents) {
    tp::Shape shape;
    const char* wrong = tp::output_shape(settings(told), output, ranks, shape);
    *rank = shape.rank;
    for (int axis = 0; axis < shape.rank; ++axis) {
        extents[2 * axis] = shape.extents[axis].input;
        extents[2 * axis + 1] = shape.extents[axis].axis;
    }
    return wrong;
}

// dims: of each input, one after the other; sizes: batch, n, row_bytes.
const char* sizes(const Told* told, const int64_t* dims, const int* ranks, const int* types, int64_t* sizes) {
    const int64_t* each[4] = {};
    for (int i = 0, at = 0; i < tp::inputs_of(settings(told)); at += ranks[i++]) each[i] = dims + at;
    tp::Sizes found;
    const char* wrong = tp::sizes_of(settings(told), each, ranks, types, found);
    sizes[0] = found.batch, sizes[1] = found.n, sizes[2] = static_cast<int64_t>(found.row_bytes);
    return wrong;
}
}
