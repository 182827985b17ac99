#include "plugin.hpp"

#include <cstdio>
#include <cstring>
#include <new>

#include "launch.hpp"

namespace tp {

using namespace nvinfer1;

static_assert(static_cast<int>(DataType::kFLOAT) == FP32 && static_cast<int>(DataType::kHALF) == FP16);
static_assert(static_cast<int>(DataType::kINT8) == INT8 && static_cast<int>(DataType::kINT32) == INT32);
static_assert(static_cast<int>(DataType::kBF16) == BF16 && static_cast<int>(DataType::kINT64) == INT64);
static_assert(static_cast<int>(PluginFieldType::kINT32) == FIELD_INT32);
static_assert(static_cast<int>(PluginFieldType::kINT64) == FIELD_INT64);
static_assert(static_cast<int>(PluginFieldType::kCHAR) == FIELD_CHAR);

Plugin::Plugin(const Settings& settings) noexcept : settings_(settings) {
    const char* form = form_name(settings_.form);
    std::snprintf(words_, sizeof words_, "k=%d form=%s dynamic=%d index_bytes=%d", settings_.k, form, settings_.dynamic,
                  settings_.index_bytes);
    fields_[0] = {"k", &settings_.k, PluginFieldType::kINT32, 1};
    fields_[1] = {"dynamic", &settings_.dynamic, PluginFieldType::kINT32, 1};
    fields_[2] = {"index_bytes", &settings_.index_bytes, PluginFieldType::kINT32, 1};
    fields_[3] = {"form", form, PluginFieldType::kCHAR, static_cast<int32_t>(std::strlen(form))};
    serialized_ = {settings_.op == Operator::diverse_select ? 4 : 3, fields_};
}

IPluginCapability* Plugin::getCapabilityInterface(PluginCapabilityType type) noexcept {
    switch (type) {
        case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
        case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
        case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

IPluginV3* Plugin::clone() noexcept { return new (std::nothrow) Plugin(settings_); }
IPluginV3* Plugin::attachToContext(IPluginResourceContext*) noexcept { return clone(); }
const PluginFieldCollection* Plugin::getFieldsToSerialize() noexcept { return &serialized_; }

int32_t Plugin::refuse(const char* what) const noexcept {
    complain(settings_.op, what);
    return 1;
}

int32_t Plugin::getOutputDataTypes(DataType* outputs, int32_t many, const DataType* inputs,
                                   int32_t given) const noexcept {
    if (given != inputs_of(settings_)) return refuse("wrong number of inputs: count is there if and only if dynamic is 1");
    int types[MOST_AXES] = {};
    for (int i = 0; i < given; ++i) types[i] = static_cast<int>(inputs[i]);
    for (int i = 0; i < many; ++i) outputs[i] = static_cast<DataType>(output_type(settings_, i, types));
    return 0;
}

int32_t Plugin::getOutputShapes(const DimsExprs* inputs, int32_t given, const DimsExprs*, int32_t, DimsExprs* outputs,
                                int32_t many, IExprBuilder& build) noexcept {
    if (given != inputs_of(settings_)) return refuse("wrong number of inputs: count is there if and only if dynamic is 1");
    const IDimensionExpr* kept = build.constant(settings_.k);
    if (settings_.dynamic) kept = build.declareSizeTensor(many - 1, *build.constant((settings_.k + 1) / 2), *kept);
    int ranks[MOST_AXES] = {};
    for (int i = 0; i < given; ++i) ranks[i] = inputs[i].nbDims;
    const int scores = scores_of(settings_);
    for (int i = 0; i < many; ++i) {
        Shape shape;
        if (const char* wrong = output_shape(settings_, i, ranks, shape)) return refuse(wrong);
        outputs[i].nbDims = shape.rank;
        for (int axis = 0; axis < shape.rank; ++axis) {
            const Extent from = shape.extents[axis];
            outputs[i].d[axis] = from.input < 0 ? kept : inputs[from.input].d[from.axis];
        }
    }
    const IDimensionExpr* n = inputs[scores].d[ranks[scores] - 1];
    return n->isConstant() && n->getConstantValue() < settings_.k ? refuse("k is more than a row has scores") : 0;
}

bool Plugin::supportsFormatCombination(int32_t place, const Range* ports, int32_t, int32_t) noexcept {
    int types[2 * MOST_AXES] = {};
    for (int i = 0; i <= place; ++i) types[i] = static_cast<int>(ports[i].desc.type);
    return ports[place].desc.format == TensorFormat::kLINEAR && accepts(settings_, place, types);
}

int32_t Plugin::configurePlugin(const Range*, int32_t, const Range*, int32_t) noexcept { return 0; }

size_t Plugin::getWorkspaceSize(const Range* inputs, int32_t, const Range*, int32_t) const noexcept {
    if (settings_.op != Operator::diverse_select) return 0;
    const Dims& most = inputs[scores_of(settings_)].max;
    int64_t batch = 1;
    for (int axis = 0; axis + 1 < most.nbDims; ++axis) batch *= most.d[axis];
    return tp_diverse_workspace(static_cast<int>(batch), static_cast<int>(most.d[most.nbDims - 1]));
}

const char* Plugin::measure(const Tensor* inputs, Sizes& sizes) const noexcept {
    const int64_t* dims[MOST_AXES] = {};
    int ranks[MOST_AXES] = {}, types[MOST_AXES] = {};
    for (int i = 0; i < inputs_of(settings_); ++i) {
        dims[i] = inputs[i].dims.d;
        ranks[i] = inputs[i].dims.nbDims;
        types[i] = static_cast<int>(inputs[i].type);
    }
    return sizes_of(settings_, dims, ranks, types, sizes);
}

int32_t Plugin::onShapeChange(const Tensor* inputs, int32_t, const Tensor*, int32_t) noexcept {
    Sizes sizes;
    const char* wrong = measure(inputs, sizes);
    return wrong == nullptr ? 0 : refuse(wrong);
}

int32_t Plugin::enqueue(const Tensor* inputs, const Tensor*, const void* const* read, void* const* written,
                        void* workspace, cudaStream_t stream) noexcept {
    Sizes sizes;
    if (const char* wrong = measure(inputs, sizes)) return refuse(wrong);
    const int code = launch(sizes, static_cast<int>(inputs[0].type), read, written, workspace, stream);
    return code == 0 ? 0 : refuse(cudaGetErrorString(static_cast<cudaError_t>(code)));
}

int Plugin::launch(const Sizes& sizes, int type, const void* const* read, void* const* written, void* workspace,
                   cudaStream_t stream) const noexcept {
    const auto [batch, n, row_bytes] = sizes;
    const auto [op, k, form, dynamic, bytes] = settings_;
    const int last = outputs_of(settings_) - 1, float_type = type == BF16 ? 2 : type;
    const auto* count = dynamic ? static_cast<const int64_t*>(read[inputs_of(settings_) - 1]) : nullptr;
    auto* size = dynamic ? static_cast<int32_t*>(written[last]) : nullptr;
    if (op == Operator::select)
        return tp_select(read[0], float_type, written[0], bytes, batch, n, k, count, size, stream);
    if (op == Operator::token_select)
        return tp_token_select(read[0], float_type, read[1], row_bytes, written[0], written[1], bytes, batch, n, k,
                               count, size, stream);
    return tp_diverse_select(static_cast<const float*>(read[0]), static_cast<const float*>(read[1]), form, written[0],
                             bytes, batch, n, k, count, size, workspace, stream);
}

}  // namespace tp
